"""Checkpoints of osmr/pytorchcv, made from gluon-cv's: ResNet with a deep stem of 64 channels.

Names: pytorchcv/models/pspnet.py and resnetd.py. The stages of the backbone are called "init_block", "stage1", ... in files from
before torch renumbered a Sequential on deletion, and "0", "1", ... since.
"""

import re

from .renaming import AUXILIARY, BRANCHES, CLASSIFIER, ENCODER, FUSE, Converter, Rules

_STEM = {"conv1.conv": "conv1.0", "conv1.bn": "conv1.1", "conv2.conv": "conv1.3", "conv2.bn": "conv1.4"}
_STEM |= {"conv3.conv": "conv1.6", "conv3.bn": "bn1"}
_SHORTCUT = {"conv": "downsample.0", "bn": "downsample.1"}


def _unit(match: re.Match[str]) -> str:
    stage, unit, layer = match.groups()
    shortcut = re.fullmatch(r"identity_conv\.(\w+)", layer)
    body = re.fullmatch(r"body\.conv(\d)\.(\w+)", layer)
    ours = _SHORTCUT.get(shortcut[1], layer) if shortcut else f"{body[2]}{body[1]}" if body else layer
    return f"{ENCODER}.layer{stage}.{int(unit) - 1}.{ours}"


def _branch(match: re.Match[str]) -> str:
    # branch1 is x itself
    return f"{BRANCHES}.{int(match[1]) - 2}.{0 if match[2] == 'conv' else 1}"


_RULES: Rules = (
    (r"backbone\.(?:0|init_block)\.(\S+)", lambda m: f"{ENCODER}.{_STEM.get(m[1], m[1])}"),
    (r"backbone\.(?:stage)?([1-4])\.unit(\d+)\.(\S+)", _unit),
    (r"pool\.branches\.branch([2-5])\.conv\.(conv|bn)", _branch),
    (r"final_block\.conv1\.conv", f"{FUSE}.0"),
    (r"final_block\.conv1\.bn", f"{FUSE}.1"),
    (r"final_block\.conv2", CLASSIFIER),
    (r"aux_block\.conv1\.conv", f"{AUXILIARY}.0"),
    (r"aux_block\.conv1\.bn", f"{AUXILIARY}.1"),
    (r"aux_block\.conv2", f"{AUXILIARY}.4"),
)


PYTORCHCV = Converter(
    signature_key="pool.branches.branch2.conv.conv.weight",
    rules=_RULES,
)
