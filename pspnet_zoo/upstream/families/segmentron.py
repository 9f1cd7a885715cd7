"""The checkpoint of LikeLy-Journey/SegmenTron: ResNet-101 with torchvision's stem.

Names: segmentron/models/pspnet.py and segmentron/modules/module.py.
"""

from .renaming import AUXILIARY, BRANCHES, CLASSIFIER, ENCODER, FUSE, Converter, Rules

_RULES: Rules = (
    (r"encoder\.(conv1|bn1|layer\d\..+)", rf"{ENCODER}.\1"),
    (r"head\.psp\.convs\.(\d)\.conv", rf"{BRANCHES}.\1.0"),
    (r"head\.psp\.convs\.(\d)\.bn", rf"{BRANCHES}.\1.1"),
    (r"head\.block\.([01])", rf"{FUSE}.\1"),
    (r"head\.block\.4", CLASSIFIER),
    (r"auxlayer\.block\.([014])", rf"{AUXILIARY}.\1"),
)


SEGMENTRON = Converter(
    signature_key="head.psp.convs.0.conv.weight",
    rules=_RULES,
    dropped=r"encoder\.fc\..+",  # the classifier of ImageNet that the file still has
)
