"""The checkpoint of LikeLy-Journey/SegmenTron.

Source: the README's table.
"""

from ...data.labels import CITYSCAPES
from ...meta import Metric
from ..entries import Checkpoint, NetworkConfig, Upstream
from .task import IMAGENET

SEGMENTRON = (
    Checkpoint(
        architecture="pspnet_r101",
        tag="segmentron_cityscapes",
        parameters=67_948_390,
        license="Apache-2.0",
        metrics=(Metric("miou", 0.77, "Cityscapes", "val", "whole image, 2049x1025; no flip", "claimed"),),
        upstream=Upstream(
            id="pspnet_resnet101_segmentron",
            family="segmentron",
            page="https://github.com/LikeLy-Journey/SegmenTron/releases/tag/v0.1.0",
            files=("pspnet_resnet101_segmentron.pth",),
            urls=("https://github.com/LikeLy-Journey/SegmenTron/releases/download/v0.1.0/pspnet_resnet101_segmentron.pth",),
            network=NetworkConfig(classes=19, align_corners=True),
            preprocess=IMAGENET,
        ),
        labels=CITYSCAPES,
    ),
)
