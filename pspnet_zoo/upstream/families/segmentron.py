"""The checkpoint of LikeLy-Journey/SegmenTron: ResNet-101 with torchvision's stem.

Names: segmentron/models/pspnet.py and segmentron/modules/module.py.
"""

from collections.abc import Mapping

from torch import Tensor

from .renaming import AUXILIARY, BRANCHES, CLASSIFIER, ENCODER, FUSE, Rules, rename

TELLTALE = "head.psp.convs.0.conv.weight"

_RULES: Rules = (
    (r"encoder\.(conv1|bn1|layer\d\..+)", rf"{ENCODER}.\1"),
    (r"head\.psp\.convs\.(\d)\.conv", rf"{BRANCHES}.\1.0"),
    (r"head\.psp\.convs\.(\d)\.bn", rf"{BRANCHES}.\1.1"),
    (r"head\.block\.([01])", rf"{FUSE}.\1"),
    (r"head\.block\.4", CLASSIFIER),
    (r"auxlayer\.block\.([014])", rf"{AUXILIARY}.\1"),
)


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under our names, without the classifier of ImageNet that the file still has.

    Raises:
        WeightsError: If a key is none of the network's.
    """
    return rename({key: tensor for key, tensor in state.items() if not key.startswith("encoder.fc.")}, _RULES)
