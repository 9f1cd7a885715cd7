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
        license="research, non-commercial (CamVid, Cityscapes)",
        metrics=(
            # pspnet-zoo evaluate pspnet_lite0.camvid --dataset camvid --data CAMVID --split test
            Metric("miou", 0.6993, *_CAMVID_TEST),
            Metric("pixel_accuracy", 0.9168, *_CAMVID_TEST),
            Metric("loss", 0.2400, *_CAMVID_TEST),
        ),
        folder="pspnet_lite0.camvid",
        sha256="5da97bb5a36b1da55b504ae5ff010d98233e165a8387e6ae184231b166bbbb5a",
        labels=CAMVID,
    ),
)
