"""Checkpoints that this project trained; they ship with the package."""

from ...data.labels import CAMVID
from ...meta import Metric
from ..rows import Checkpoint

_CAMVID_TEST = ("CamVid", "test", "480x360, 11 classes, whole image seen 1.5 times enlarged, single scale, no flip", "measured")

OWN = (
    Checkpoint(
        architecture="pspnet_lite0",
        tag="camvid",
        parameters=4_170_315,
        license="research, non-commercial (CamVid)",
        metrics=(
            # pspnet-zoo evaluate pspnet_lite0.camvid --dataset camvid --data CAMVID --split test
            Metric("miou", 0.6596, *_CAMVID_TEST),
            Metric("pixel_accuracy", 0.9026, *_CAMVID_TEST),
            Metric("loss", 0.3063, *_CAMVID_TEST),
        ),
        folder="pspnet_lite0.camvid",
        sha256="fd560cb004eaa446e52b02682504ccdc7d1e4b0698f9189a4c0eb7b9ed1bba75",
        labels=CAMVID,
    ),
)
