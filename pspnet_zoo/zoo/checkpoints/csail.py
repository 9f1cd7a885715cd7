"""Checkpoints of CSAILVision/semantic-segmentation-pytorch.

Source: the README's table.
"""

from ...data.labels import ADE20K
from ..entries import Checkpoint, NetworkConfig, Upstream
from .task import IMAGENET, Task

_ADE20K = Task(
    "ADE20K",
    "val",
    ADE20K,
    "whole image, one scale",
    "whole image, long side at most 1000; mean over short sides 300, 375, 450, 525, 600",
    False,
)


def _csail(
    architecture: str,
    parameters: int,
    name: str,
    epoch: int,
    single: float,
    multi: float,
    *,
    psp_bin_channels: int | None = None,
    aux_channels: int | None = None,
    aux_from: str | None = None,
) -> Checkpoint:
    """An entry of CSAILVision/semantic-segmentation-pytorch. No hash is published.

    Only the address of ResNet-50 is spelled out in the repository (demo_test.sh); the others follow the names of their configs.
    """
    files = (f"encoder_epoch_{epoch}.pth", f"decoder_epoch_{epoch}.pth")
    return Checkpoint(
        architecture=architecture,
        tag="csail_ade20k",
        parameters=parameters,
        license="BSD-3-Clause",
        metrics=(_ADE20K.metric(single), _ADE20K.metric(multi, multi_scale=True)),
        upstream=Upstream(
            id=f"csail_{name}",
            family="csail",
            page="https://github.com/CSAILVision/semantic-segmentation-pytorch",
            files=files,
            urls=tuple(f"http://sceneparsing.csail.mit.edu/model/pytorch/{name}/{file}" for file in files),
            network=NetworkConfig(
                classes=len(ADE20K),
                align_corners=False,
                psp_bin_channels=psp_bin_channels,
                aux_channels=aux_channels,
                aux_from=aux_from,
            ),
            preprocess=IMAGENET,
        ),
        labels=ADE20K,
    )


CSAIL = (
    _csail(
        "pspnet_r18s", 24_566_636, "ade20k-resnet18dilated-ppm_deepsup", 20, 38.0, 38.81, psp_bin_channels=512, aux_channels=128
    ),
    _csail("pspnet_r50s", 51_579_116, "ade20k-resnet50dilated-ppm_deepsup", 20, 41.26, 42.14, aux_channels=512),
    _csail("pspnet_r101s", 70_571_244, "ade20k-resnet101dilated-ppm_deepsup", 25, 42.19, 42.53, aux_channels=512),
    # its auxiliary head reads features[14], the first of three blocks at 160 channels
    _csail(
        "pspnet_mobilenetv2_100",
        13_588_396,
        "ade20k-mobilenetv2dilated-ppm_deepsup",
        20,
        35.76,
        36.28,
        psp_bin_channels=512,
        aux_channels=80,
        aux_from="blocks.5.0",
    ),
)
