"""Checkpoints that this project trained; they ship with the package."""

from ...data.labels import CAMVID
from ...meta import Metric
from ..rows import Checkpoint

_CAMVID_TEST = ("CamVid", "test", "480x360, 11 classes, whole image seen twice enlarged, single scale, no flip", "measured")

OWN = (
    Checkpoint(
        architecture="pspnet_lite0",
        tag="camvid",
        parameters=4_170_315,
        license="research, non-commercial (CamVid)",
        metrics=(
            # pspnet-zoo evaluate pspnet_lite0.camvid --dataset camvid --data CAMVID --split test
            Metric("miou", 0.6749, *_CAMVID_TEST),
            Metric("pixel_accuracy", 0.9073, *_CAMVID_TEST),
            Metric("loss", 0.2719, *_CAMVID_TEST),
        ),
        folder="pspnet_lite0.camvid",
        sha256="a928d6e1a511284678848cf8610026f280dd1e537582cb8a5f8df28a6342b3c0",
        labels=CAMVID,
    ),
)
