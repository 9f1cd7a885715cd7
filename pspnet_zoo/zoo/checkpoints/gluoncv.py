"""Checkpoints of gluon-cv, and their port to PyTorch by osmr/pytorchcv.

Sources: gluon-cv's table (model_zoo/segmentation); osmr/imgclsmob (pytorch).
"""

from ...data.labels import ADE20K, CITYSCAPES, VOC
from ...meta import Labels
from ..entries import Checkpoint, NetworkConfig, Upstream
from .task import IMAGENET_255, Task

_GLUON_PROTOCOL = "gluon-cv's own evaluation, which its table does not detail"


def _gluon(
    architecture: str,
    tag: str,
    dataset: str,
    labels: Labels,
    parameters: int,
    *,
    gluon_id: str,
    gluon_file: str,
    gluon_sha1: str,
    miou: float,
    pixel_accuracy: float | None,
    pytorchcv_id: str,
    pytorchcv_sha1: str,
    pytorchcv_miou: float,
) -> tuple[Checkpoint, Checkpoint]:
    """The entries of gluon-cv's MXNet file, which is not supported, and of osmr/pytorchcv's PyTorch file with the same weights."""
    network = NetworkConfig(classes=len(labels), align_corners=True)
    task = Task(dataset, "val", labels, _GLUON_PROTOCOL, "", True)
    claim = task.metric(miou)
    accuracy = () if pixel_accuracy is None else (task.metric(pixel_accuracy, name="pixel_accuracy"),)
    # pytorchcv's file names hold its mIoU in hundredths of a percent and the first digits of the sha1
    file = f"{pytorchcv_id}-{pytorchcv_miou * 100:.0f}-{pytorchcv_sha1[:8]}.pth"
    mxnet = Checkpoint(
        architecture=architecture,
        tag=f"gluoncv_{tag}",
        parameters=parameters,
        license="Apache-2.0",
        metrics=(claim, *accuracy),
        upstream=Upstream(
            id=gluon_id,
            family="gluoncv",
            page="https://cv.gluon.ai/model_zoo/segmentation.html",
            files=(f"{gluon_file}-{gluon_sha1[:8]}.params",),
            urls=(f"https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/models/{gluon_file}-{gluon_sha1[:8]}.zip",),
            hash=f"sha1:{gluon_sha1}",
            same_weights_as=f"{architecture}.pytorchcv_{tag}",
            network=network,
            preprocess=IMAGENET_255,
        ),
        labels=labels,
    )
    pytorch = Checkpoint(
        architecture=architecture,
        tag=f"pytorchcv_{tag}",
        parameters=parameters,
        license="MIT (code); weights from gluon-cv, Apache-2.0",
        metrics=(task.metric(pytorchcv_miou, protocol="one pass at 480x480, by pytorchcv"), claim),
        upstream=Upstream(
            id=pytorchcv_id,
            family="pytorchcv",
            page="https://github.com/osmr/imgclsmob/releases/tag/v0.0.297",
            files=(file,),
            urls=(f"https://github.com/osmr/imgclsmob/releases/download/v0.0.297/{file}.zip",),
            hash=f"sha1:{pytorchcv_sha1}",
            network=network,
            preprocess=IMAGENET_255,
        ),
        labels=labels,
    )
    return pytorch, mxnet


GLUONCV = (
    *_gluon(
        "pspnet_r101s",
        "cityscapes",
        "Cityscapes",
        CITYSCAPES,
        68_072_166,
        gluon_id="gluoncv_psp_resnet101_citys",
        gluon_file="psp_resnet101_citys",
        gluon_sha1="d0e8603120ab02118a8973d52a26b8296d1b4078",
        miou=79.9,
        pixel_accuracy=96.4,
        pytorchcv_id="pspnet_resnetd101b_cityscapes",
        pytorchcv_sha1="0a6efb497bd4fc763d27e2121211e06f72ada7ed",
        pytorchcv_miou=71.72,
    ),
    *_gluon(
        "pspnet_r50s",
        "ade20k",
        "ADE20K",
        ADE20K,
        49_180_908,
        gluon_id="gluoncv_psp_resnet50_ade",
        gluon_file="psp_resnet50_ade",
        gluon_sha1="3f220f537400dfa607c3d041ed3b172db39b0b01",
        miou=41.5,
        pixel_accuracy=80.1,
        pytorchcv_id="pspnet_resnetd50b_ade20k",
        pytorchcv_sha1="13f22137d7dd06c6de2ffc47e6ed33403d3dd2cf",
        pytorchcv_miou=36.87,
    ),
    *_gluon(
        "pspnet_r101s",
        "ade20k",
        "ADE20K",
        ADE20K,
        68_173_036,
        gluon_id="gluoncv_psp_resnet101_ade",
        gluon_file="psp_resnet101_ade",
        gluon_sha1="240a4758b506447faf7c55cd7a7837d66f5039a6",
        miou=43.3,
        pixel_accuracy=80.8,
        pytorchcv_id="pspnet_resnetd101b_ade20k",
        pytorchcv_sha1="115d62bf66477221b83337208aefe0f2f0266da2",
        pytorchcv_miou=37.97,
    ),
    *_gluon(
        "pspnet_r101s",
        "voc12",
        "Pascal VOC 2012",
        VOC,
        68_073_706,
        gluon_id="gluoncv_psp_resnet101_voc",
        gluon_file="psp_resnet101_voc",
        gluon_sha1="2c2f4e1c2b11461b52598a4b2038bccbcfc166eb",
        miou=85.1,
        pixel_accuracy=None,
        pytorchcv_id="pspnet_resnetd101b_voc",
        pytorchcv_sha1="c22f021948461a7b7ab1ef1265a7948762770c83",
        pytorchcv_miou=81.44,
    ),
    *_gluon(
        "pspnet_r101s",
        "coco_voc",
        "MS-COCO (21 VOC classes)",
        VOC,
        68_073_706,
        gluon_id="gluoncv_psp_resnet101_coco",
        gluon_file="psp_resnet101_coco",
        gluon_sha1="09f89cad0e107cb2bffdb1b07706ba31798096f2",
        miou=70.4,
        pixel_accuracy=92.4,
        pytorchcv_id="pspnet_resnetd101b_coco",
        pytorchcv_sha1="c8b13be65cb43402fce8bae945f6e0d0a3246b92",
        pytorchcv_miou=67.41,
    ),
)
