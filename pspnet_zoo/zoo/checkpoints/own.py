"""Checkpoints that this project trained; they ship with the package."""

from ...data.labels import CAMVID
from ...meta import Metric
from ..entries import Checkpoint

_CAMVID_TEST = ("CamVid", "test", "480x360, 11 classes, whole image seen twice enlarged, single scale, no flip", "measured")

OWN = (
    Checkpoint(
        architecture="pspnet_lite0",
        tag="camvid",
        parameters=4_170_315,
        license="research, non-commercial (CamVid, Cityscapes)",
        metrics=(
            # pspnet-zoo evaluate pspnet_lite0.camvid --dataset camvid --data CAMVID --split test
            Metric("miou", 0.7034, *_CAMVID_TEST),
            Metric("pixel_accuracy", 0.9181, *_CAMVID_TEST),
            Metric("loss", 0.2371, *_CAMVID_TEST),
        ),
        folder="pspnet_lite0.camvid",
        sha256="dd1ae11a714ffe1fb2d7bc0f9bf4a014f1e9c04102f0de006c24dd7df4008f7b",
        labels=CAMVID,
    ),
)
