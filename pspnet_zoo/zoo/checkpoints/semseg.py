"""Checkpoints of hszhao/semseg.

Source: the README's table.
"""

from ...data.labels import ADE20K, CITYSCAPES, VOC
from ..entries import Checkpoint, NetworkConfig, Upstream
from .task import IMAGENET_255, Task

_SEMSEG_MULTI = "; mean over scales 0.5, 0.75, 1, 1.25, 1.5, 1.75"
_SEMSEG_CITYSCAPES_PROTOCOL = "windows of 713, stride 2/3, flip, long side 2048"
_SEMSEG_PROTOCOL = "windows of 473, stride 2/3, flip, long side 512"
_SEMSEG_CITYSCAPES = Task(
    "Cityscapes", "val", CITYSCAPES, _SEMSEG_CITYSCAPES_PROTOCOL, _SEMSEG_CITYSCAPES_PROTOCOL + _SEMSEG_MULTI, True
)
_SEMSEG_ADE20K = Task("ADE20K", "val", ADE20K, _SEMSEG_PROTOCOL, _SEMSEG_PROTOCOL + _SEMSEG_MULTI, True)
_SEMSEG_VOC = Task("Pascal VOC 2012 + Aug", "val", VOC, _SEMSEG_PROTOCOL, _SEMSEG_PROTOCOL + _SEMSEG_MULTI, True)


def _semseg(
    architecture: str, task: Task, parameters: int, id: str, file: str, single: tuple[float, ...], multi: tuple[float, ...]
) -> Checkpoint:
    """An entry of hszhao/semseg; `single` and `multi` are mIoU, mean and pixel accuracy in percent."""
    names = ("miou", "mean_accuracy", "pixel_accuracy")
    return Checkpoint(
        architecture=architecture,
        tag=id.replace("pspnet50_", "").replace("pspnet101_", "").replace("voc2012", "voc12aug"),
        parameters=parameters,
        license="MIT (repository); weights carry no separate licence",
        metrics=tuple(
            task.metric(value, name=name, multi_scale=values is multi)
            for values in (single, multi)
            for name, value in zip(names, values, strict=True)
        ),
        upstream=Upstream(
            id=id,
            family="semseg",
            page=f"https://drive.google.com/open?id=15wx9vOM0euyizq-M1uINgN0_wjVRf9J3 ({file})",
            files=(file.rpartition("/")[2],),
            network=NetworkConfig(classes=len(task.labels), align_corners=True, dilation="uniform"),
            preprocess=IMAGENET_255,
        ),
        labels=task.labels,
    )


SEMSEG = (
    _semseg(
        "pspnet_r50s",
        _SEMSEG_CITYSCAPES,
        49_080_038,
        "semseg_pspnet50_cityscapes",
        "exp/cityscapes/pspnet50/model/train_epoch_200.pth",
        (77.3, 84.31, 95.97),
        (78.38, 84.86, 96.17),
    ),
    # a user measured 72.9 instead of 78.63: github hszhao/semseg issue 92, unanswered
    _semseg(
        "pspnet_r101s",
        _SEMSEG_CITYSCAPES,
        68_072_166,
        "semseg_pspnet101_cityscapes",
        "exp/cityscapes/pspnet101/model/train_epoch_200.pth",
        (78.63, 85.77, 96.14),
        (79.29, 85.91, 96.38),
    ),
    _semseg(
        "pspnet_r50s",
        _SEMSEG_ADE20K,
        49_180_908,
        "semseg_pspnet50_ade20k",
        "exp/ade20k/pspnet50/model/train_epoch_100.pth",
        (41.89, 52.27, 80.39),
        (42.84, 52.66, 81.06),
    ),
    _semseg(
        "pspnet_r101s",
        _SEMSEG_ADE20K,
        68_173_036,
        "semseg_pspnet101_ade20k",
        "exp/ade20k/pspnet101/model/train_epoch_100.pth",
        (43.1, 53.75, 81.07),
        (44.15, 54.26, 81.72),
    ),
    _semseg(
        "pspnet_r50s",
        _SEMSEG_VOC,
        49_081_578,
        "semseg_pspnet50_voc2012",
        "exp/voc2012/pspnet50/model/train_epoch_50.pth",
        (77.05, 85.13, 94.89),
        (78.02, 85.8, 95.13),
    ),
    _semseg(
        "pspnet_r101s",
        _SEMSEG_VOC,
        68_073_706,
        "semseg_pspnet101_voc2012",
        "exp/voc2012/pspnet101/model/train_epoch_50.pth",
        (79.07, 86.36, 95.34),
        (79.63, 86.77, 95.5),
    ),
)
