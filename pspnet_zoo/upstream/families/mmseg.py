"""Checkpoints of open-mmlab/mmsegmentation: ResNet, ResNeSt and MobileNetV2 with a PSPHead and an FCNHead.

Names: mmseg/models/backbones/{resnet,resnest,mobilenet_v2}.py and mmseg/models/decode_heads/{psp_head,fcn_head}.py, mmseg 1.2.2.
"""

import ast
import logging
import re
from typing import Any

from ...meta import Preprocess
from ...storage.files import WeightsError
from ...zoo.entries import NetworkConfig
from .renaming import AUXILIARY, BRANCHES, CLASSIFIER, ENCODER, FUSE, Converter, Rules

_log = logging.getLogger(__name__)

_DEPTHWISE = {"0.conv": "conv_dw", "0.bn": "bn1", "1.conv": "conv_pw", "1.bn": "bn2"}
_INVERTED = {"0.conv": "conv_pw", "0.bn": "bn1", "1.conv": "conv_dw", "1.bn": "bn2", "2.conv": "conv_pwl", "2.bn": "bn3"}


def _mobilenet_layer(match: re.Match[str]) -> str:
    stage, block, layer = match.groups()
    names = _DEPTHWISE if stage == "1" else _INVERTED
    return f"{ENCODER}.blocks.{int(stage) - 1}.{block}.{names.get(layer, layer)}"


_RULES: Rules = (
    (r"backbone\.conv1\.conv", f"{ENCODER}.conv_stem"),
    (r"backbone\.conv1\.bn", f"{ENCODER}.bn1"),
    (r"backbone\.layer(\d)\.(\d+)\.conv\.(\d\.\w+)", _mobilenet_layer),
    (r"backbone\.stem\.7", f"{ENCODER}.bn1"),
    (r"backbone\.stem\.(\d)", rf"{ENCODER}.conv1.\1"),
    (r"backbone\.(conv1|bn1|layer\d\.\d+\..+)", rf"{ENCODER}.\1"),
    (r"decode_head\.psp_modules\.(\d)\.1\.conv", rf"{BRANCHES}.\1.0"),
    (r"decode_head\.psp_modules\.(\d)\.1\.bn", rf"{BRANCHES}.\1.1"),
    (r"decode_head\.bottleneck\.conv", f"{FUSE}.0"),
    (r"decode_head\.bottleneck\.bn", f"{FUSE}.1"),
    (r"decode_head\.conv_seg", CLASSIFIER),
    (r"auxiliary_head\.convs\.0\.conv", f"{AUXILIARY}.0"),
    (r"auxiliary_head\.convs\.0\.bn", f"{AUXILIARY}.1"),
    (r"auxiliary_head\.conv_seg", f"{AUXILIARY}.4"),
)


MMSEG = Converter(
    signature_key="decode_head.psp_modules.0.1.conv.weight",
    rules=_RULES,
)


def check_config(text: str, architecture: str, network: NetworkConfig, preprocess: Preprocess) -> None:
    """Compare the config that the file carries with the entry it is converted by; what the config does not say is not compared.

    Args:
        text: mmseg's config, as Python source. It is parsed, never run.
        architecture: Of the entry.
        network: Of the entry.
        preprocess: Of the entry.

    Raises:
        WeightsError: If they contradict each other, with every contradiction.
    """
    config = _read_config(text)
    problems = [
        f"{field} is {config[field]!r} in the file, {value!r} in the entry"
        for field, value in _expected(architecture, network, preprocess).items()
        if field in config and config[field] != value
    ]
    if problems:
        raise WeightsError(f"The config inside the file contradicts '{architecture}' as chosen: {'; '.join(problems)}")


def _expected(architecture: str, network: NetworkConfig, preprocess: Preprocess) -> dict[str, Any]:
    """Values of the config of a checkpoint of this entry."""
    expected: dict[str, Any] = {
        "decode_head.type": "PSPHead",
        "decode_head.pool_scales": (1, 2, 3, 6),
        "decode_head.channels": network.psp_bin_channels or network.psp_out_channels,
        "data_preprocessor.mean": preprocess.mean,
        "data_preprocessor.std": preprocess.std,
        "data_preprocessor.bgr_to_rgb": preprocess.order == "RGB",
    }
    for head in ("decode_head", "auxiliary_head"):
        expected[f"{head}.num_classes"] = network.classes
        expected[f"{head}.align_corners"] = network.align_corners
    if match := re.fullmatch(r"pspnet_r(\d+)(c?)", architecture):
        expected["backbone.type"] = "ResNetV1c" if match[2] else "ResNet"
        expected["backbone.depth"] = int(match[1])
    if architecture == "pspnet_resnest101e":
        expected |= {"backbone.type": "ResNeSt", "backbone.depth": 101}
    if architecture == "pspnet_mobilenetv2_100":
        expected |= {
            "backbone.type": "MobileNetV2",
            "backbone.strides": (1, 2, 2, 1, 1, 1, 1),
            "backbone.dilations": (1, 1, 1, 2, 2, 4, 4),
        }
    else:
        expected |= {
            "backbone.strides": (1, 2, 2, 2) if network.dilation == "strided" else (1, 2, 1, 1),
            "backbone.dilations": (1, 1, 2, 4),
            "backbone.contract_dilation": True,
            "backbone.style": "pytorch",  # "caffe" has the strides of bottlenecks elsewhere
        }
    return expected


def _read_config(text: str) -> dict[str, Any]:
    """The plain values of the config's `model`, under dotted names; lists are tuples."""
    # mmcv's Config.text, unlike pretty_text, puts the path of each file on a line of its own
    source = "\n".join(line for line in text.splitlines() if not re.fullmatch(r"\S+\.py", line.strip()))
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        _log.warning("The config inside the file is not Python (%s), so it was not compared with the entry", error)
        return {}
    values: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "model" for t in node.targets):
            _collect(node.value, "", values)
    return values


def _collect(node: ast.expr, path: str, values: dict[str, Any]) -> None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        for keyword in node.keywords:
            if keyword.arg:
                _collect(keyword.value, f"{path}.{keyword.arg}".lstrip("."), values)
        return
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                _collect(value, f"{path}.{key.value}".lstrip("."), values)
        return
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        return  # a reference or a call: it says nothing that could be compared
    values[path] = tuple(value) if isinstance(value, list) else value
