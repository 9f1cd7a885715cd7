"""Checkpoints that this project trained; they ship with the package."""

from ...data.labels import CAMVID
from ...meta import Labels, Metric
from ..entries import Checkpoint

_CAMVID_TEST = ("CamVid", "test", "480x360, 11 classes, whole image, input scale factor 2, single scale, no flip", "measured")

_NUCLEI_TEST = (
    "Nuclei",
    "test",
    "75 images of the 2018 Data Science Bowl, whole image, input scale factor up to 4, single scale, no flip",
    "measured",
)

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
    Checkpoint(
        architecture="pspnet_lite0",
        tag="nuclei",
        parameters=4_168_578,
        license="Apache-2.0",
        metrics=(
            # pspnet-zoo evaluate pspnet_lite0.nuclei --dataset folder --data NUCLEI_FOLDERS --split test
            Metric("miou", 0.9106, *_NUCLEI_TEST),
            Metric("pixel_accuracy", 0.9756, *_NUCLEI_TEST),
            Metric("loss", 0.0625, *_NUCLEI_TEST),
        ),
        folder="pspnet_lite0.nuclei",
        sha256="9357fd804c12cd1beca3d287b441eea7b604446951759a54e577908506cb8de5",
        labels=Labels(("background", "nucleus"), ((0, 0, 0), (255, 128, 0))),
    ),
)
