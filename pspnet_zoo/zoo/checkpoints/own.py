"""Checkpoints that this project trained; they ship with the package."""

from ...data.labels import CAMVID
from ...meta import Metric
from ..rows import Checkpoint

_CAMVID_TEST = ("CamVid", "test", "480x360, 11 classes, whole image, single scale, no flip", "measured")

OWN = (
    Checkpoint(
        architecture="pspnet_lite0",
        tag="camvid",
        parameters=4_170_315,
        license="research, non-commercial (CamVid)",
        metrics=(
            # pspnet-zoo evaluate pspnet_lite0.camvid --dataset camvid --data CAMVID --split test
            Metric("miou", 0.6507, *_CAMVID_TEST),
            Metric("pixel_accuracy", 0.9033, *_CAMVID_TEST),
            Metric("loss", 0.3042, *_CAMVID_TEST),
            # the same with --protocol whole_ms
            Metric(
                "miou", 0.6762, "CamVid", "test", "480x360, 11 classes, whole image, 6 scales, flip", "measured", multi_scale=True
            ),
        ),
        folder="pspnet_lite0.camvid",
        sha256="198187b0a3e7b9bbb34c2c1b6a2d95bb047476be1ba4087ccbd28080e9696349",
        labels=CAMVID,
    ),
)
