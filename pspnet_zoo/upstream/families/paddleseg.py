"""Checkpoints of PaddlePaddle/PaddleSeg: ResNet-D ("vd").

Names: paddleseg/models/pspnet.py, paddleseg/models/backbones/resnet_vd.py and paddleseg/models/layers/pyramid_pool.py. The bins are
stored as 1, 2, 3, 6 and concatenated as 6, 3, 2, 1; the convolutions of the heads have a bias before their norm.
"""

import re

from .renaming import AUXILIARY, BRANCHES, CLASSIFIER, ENCODER, FUSE, Converter, Rules, fold_biases, reverse_bins

_STEM = {"1": ("conv1.0", "conv1.1"), "2": ("conv1.3", "conv1.4"), "3": ("conv1.6", "bn1")}
# [0] of timm's shortcut is the average pool, or nothing
_LAYERS = {
    "conv0": ("conv1", "bn1"),
    "conv1": ("conv2", "bn2"),
    "conv2": ("conv3", "bn3"),
    "short": ("downsample.1", "downsample.2"),
}
_KIND = {"_conv": 0, "_batch_norm": 1}


def _block(match: re.Match[str]) -> str:
    stage, block, layer, kind = match.groups()
    return f"{ENCODER}.layer{int(stage) + 1}.{block}.{_LAYERS[layer][_KIND[kind]]}"


_RULES: Rules = (
    (r"backbone\.conv1_([123])\.(_conv|_batch_norm)", lambda m: f"{ENCODER}.{_STEM[m[1]][_KIND[m[2]]]}"),
    (r"backbone\.bb_([0-3])_(\d+)\.(conv[012]|short)\.(_conv|_batch_norm)", _block),
    (r"head\.psp_module\.stages\.([0-3])\.1\.(_conv|_batch_norm)", lambda m: f"{BRANCHES}.{m[1]}.{_KIND[m[2]]}"),
    (r"head\.psp_module\.conv_bn_relu2\.(_conv|_batch_norm)", lambda m: f"{FUSE}.{_KIND[m[1]]}"),
    (r"head\.conv", CLASSIFIER),
    (r"head\.auxlayer\.conv_bn_relu\.(_conv|_batch_norm)", lambda m: f"{AUXILIARY}.{_KIND[m[1]]}"),
    (r"head\.auxlayer\.conv", f"{AUXILIARY}.4"),
)


PADDLESEG = Converter(
    signature_key="head.psp_module.stages.0.1._conv.weight",
    rules=_RULES,
    leaves={"_mean": "running_mean", "_variance": "running_var"},
    after=(reverse_bins, fold_biases),
)
