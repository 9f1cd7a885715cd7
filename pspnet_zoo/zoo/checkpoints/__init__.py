"""The checkpoints that projects published, as entries: a file for each project.

Nothing of other projects was measured by this one: addresses, hashes, policies and numbers are as the projects publish them.

A tag is who_dataset. Where one project has several for an architecture and a dataset, the one with the best claim has that tag
and the others say what sets them apart: the crop, the iterations, "d32" for strides that were kept, "rsb" for another pretraining.
"""

from collections.abc import Mapping
from dataclasses import replace

from ..copies import COPIES
from ..entries import Checkpoint
from .caffe import CAFFE
from .csail import CSAIL
from .gluoncv import GLUONCV
from .mmseg import MMSEG
from .own import OWN
from .paddleseg import PADDLESEG
from .segmentron import SEGMENTRON
from .semseg import SEMSEG

UPSTREAM: tuple[Checkpoint, ...] = (*MMSEG, *SEMSEG, *PADDLESEG, *GLUONCV, *CAFFE, *SEGMENTRON, *CSAIL)
"""Those of other projects."""

CHECKPOINTS: tuple[Checkpoint, ...] = tuple(replace(entry, hub=COPIES.get(entry.name)) for entry in (*OWN, *UPSTREAM))
"""Every published checkpoint. An architecture's default is the one in `DEFAULT_TAGS`, or else its first."""

# Of the files that can be fetched by their address, the best claimed single-scale mIoU on Cityscapes, in percent.
DEFAULT_TAGS: Mapping[str, str] = {
    "pspnet_mobilenetv2_100": "mmseg_cityscapes",  # 70.23 on Cityscapes
    "pspnet_r101": "mmseg_cityscapes",  # 79.69 on Cityscapes
    "pspnet_r101c": "mmseg_cityscapes",  # 79.77 on Cityscapes
    "pspnet_r101d": "paddleseg_cityscapes",  # 80.48 on Cityscapes
    "pspnet_r101s": "pytorchcv_cityscapes",  # 79.9 on Cityscapes
    "pspnet_r18": "mmseg_cityscapes",  # 74.92 on Cityscapes
    "pspnet_r18c": "mmseg_cityscapes",  # 75.9 on Cityscapes
    "pspnet_r18s": "csail_ade20k",  # 38.0 on ADE20K; no Cityscapes file can be fetched by address
    "pspnet_r50": "mmseg_cityscapes",  # 78.5 on Cityscapes
    "pspnet_r50c": "mmseg_cityscapes",  # 79.59 on Cityscapes
    "pspnet_r50d": "paddleseg_cityscapes",  # 78.83 on Cityscapes
    "pspnet_r50s": "pytorchcv_ade20k",  # 41.5 on ADE20K; no Cityscapes file can be fetched by address
    "pspnet_resnest101e": "mmseg_cityscapes",  # 78.57 on Cityscapes
}
"""The tag of `pretrained=True`, for each architecture that has weights."""
