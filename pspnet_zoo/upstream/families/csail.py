"""Checkpoints of CSAILVision/semantic-segmentation-pytorch: ResNet with a deep stem of 64 channels, and MobileNetV2.

Names: mit_semseg/models/{models,resnet,mobilenet}.py. An encoder file and a decoder file; here their keys have the prefixes
"encoder." and "decoder.".
"""

import re

from .renaming import AUXILIARY, BRANCHES, CLASSIFIER, ENCODER, FUSE, Converter, Rules

_STEM = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4", "conv3": "conv1.6", "bn3": "bn1"}

# features[1:18] of MobileNetV2 in timm's stages
_MOBILENET_BLOCKS = [f"{stage}.{block}" for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)) for block in range(blocks)]
_DEPTHWISE = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}
_INVERTED = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"}


def _mobilenet_layer(match: re.Match[str]) -> str:
    index, layer = int(match[1]), match[2]
    names = _DEPTHWISE if index == 1 else _INVERTED
    return f"{ENCODER}.blocks.{_MOBILENET_BLOCKS[index - 1]}.{names.get(layer, layer)}"


_RULES: Rules = (
    (r"encoder\.((?:conv|bn)[123])", lambda m: f"{ENCODER}.{_STEM[m[1]]}"),
    (r"encoder\.(layer\d\..+)", rf"{ENCODER}.\1"),
    (r"encoder\.features\.0\.0", f"{ENCODER}.conv_stem"),
    (r"encoder\.features\.0\.1", f"{ENCODER}.bn1"),
    (r"encoder\.features\.([1-9]|1[0-7])\.conv\.(\d)", _mobilenet_layer),
    (r"decoder\.ppm\.(\d)\.1", rf"{BRANCHES}.\1.0"),
    (r"decoder\.ppm\.(\d)\.2", rf"{BRANCHES}.\1.1"),
    (r"decoder\.conv_last\.([01])", rf"{FUSE}.\1"),
    (r"decoder\.conv_last\.4", CLASSIFIER),
    (r"decoder\.cbr_deepsup\.([01])", rf"{AUXILIARY}.\1"),
    (r"decoder\.conv_last_deepsup", f"{AUXILIARY}.4"),
)


CSAIL = Converter(
    signature_key="decoder.ppm.0.1.weight",
    rules=_RULES,
    dropped=r".+\._(tmp_running_mean|tmp_running_var|running_iter)",  # of its synchronised batch norm
)
