"""Checkpoints of PaddleSeg.

Source: configs/pspnet/README.md.
"""

from ...data.labels import CITYSCAPES, VOC
from ...meta import Preprocess
from ..entries import Checkpoint, NetworkConfig, Upstream
from .task import Task

_HALF = Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PADDLE_MULTI = "whole image; mean over several scales and flip"
_PADDLE_CITYSCAPES = Task("Cityscapes", "val", CITYSCAPES, "whole image, 2048x1024; no flip", _PADDLE_MULTI, False)
_PADDLE_VOC = Task("Pascal VOC 2012 + Aug", "val", VOC, "whole image; no flip", _PADDLE_MULTI, False)


def _paddleseg(
    architecture: str, tag: str, task: Task, parameters: int, folder: str, single: float, flip: float, multi: float
) -> Checkpoint:
    """An entry of PaddleSeg; `single`, `flip` and `multi` are mIoU in percent. No hash is published."""
    name = folder.rpartition("/")[2]
    return Checkpoint(
        architecture=architecture,
        tag=f"paddleseg_{tag}",
        parameters=parameters,
        license="Apache-2.0",
        metrics=(
            task.metric(single),
            task.metric(flip, protocol=task.single.replace("no flip", "flip")),
            task.metric(multi, multi_scale=True),
        ),
        upstream=Upstream(
            id=f"paddleseg_{name}",
            family="paddleseg",
            page="https://github.com/PaddlePaddle/PaddleSeg/tree/develop/configs/pspnet",
            files=("model.pdparams",),
            urls=(f"https://bj.bcebos.com/paddleseg/dygraph/{folder}/model.pdparams",),
            network=NetworkConfig(
                classes=len(task.labels),
                align_corners=False,
                dilation="uniform",
                shortcut_pool="identity",
                psp_out_channels=1024,
            ),
            preprocess=_HALF,
        ),
        labels=task.labels,
    )


PADDLESEG = (
    _paddleseg(
        "pspnet_r50d",
        "cityscapes",
        _PADDLE_CITYSCAPES,
        67_860_614,
        "cityscapes/pspnet_resnet50_os8_cityscapes_1024x512_80k",
        78.83,
        79.03,
        79.66,
    ),
    _paddleseg(
        "pspnet_r101d",
        "cityscapes",
        _PADDLE_CITYSCAPES,
        86_852_742,
        "cityscapes/pspnet_resnet101_os8_cityscapes_1024x512_80k",
        80.48,
        80.74,
        81.29,
    ),
    _paddleseg(
        "pspnet_r50d",
        "voc12aug",
        _PADDLE_VOC,
        67_863_178,
        "pascal_voc12/pspnet_resnet50_os8_voc12aug_512x512_40k",
        80.76,
        80.92,
        81.18,
    ),
    _paddleseg(
        "pspnet_r101d",
        "voc12aug",
        _PADDLE_VOC,
        86_855_306,
        "pascal_voc12/pspnet_resnet101_os8_voc12aug_512x512_40k",
        80.22,
        80.48,
        80.68,
    ),
)
