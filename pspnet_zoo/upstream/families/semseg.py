"""Checkpoints of hszhao/semseg: ResNet with a deep stem of 64 channels.

Names: model/pspnet.py and model/resnet.py.
"""

from .renaming import AUXILIARY, BRANCHES, CLASSIFIER, ENCODER, FUSE, Converter, Rules

_RULES: Rules = (
    (r"layer0\.7", f"{ENCODER}.bn1"),
    (r"layer0\.(\d)", rf"{ENCODER}.conv1.\1"),
    (r"(layer[1-4]\..+)", rf"{ENCODER}.\1"),
    (r"ppm\.features\.(\d)\.1", rf"{BRANCHES}.\1.0"),
    (r"ppm\.features\.(\d)\.2", rf"{BRANCHES}.\1.1"),
    (r"cls\.([01])", rf"{FUSE}.\1"),
    (r"cls\.4", CLASSIFIER),
    (r"aux\.([014])", rf"{AUXILIARY}.\1"),
)


SEMSEG = Converter(
    signature_key="ppm.features.0.1.weight",
    rules=_RULES,
)
