"""The paper's own Caffe weights, hszhao/PSPNet, and their port to PyTorch.

Sources: README of hszhao/PSPNet; meetps/pytorch-semseg pull request 81.
"""

from ...data.labels import ADE20K, CITYSCAPES, VOC
from ...meta import Labels, Metric, Preprocess
from ..entries import Checkpoint, NetworkConfig, Upstream
from .task import Task

_BGR = Preprocess((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, order="BGR")


def _caffe(
    architecture: str, tag: str, labels: Labels, parameters: int, id: str, page: str, metrics: tuple[Metric, ...]
) -> Checkpoint:
    """An entry of the original Caffe weights; not supported, but their port to PyTorch is."""
    return Checkpoint(
        architecture=architecture,
        tag=f"caffe_{tag}",
        parameters=parameters,
        license="Caffe BSD-2-Clause (repository)",
        metrics=metrics,
        upstream=Upstream(
            id=id,
            family="caffe",
            page=page,
            files=(f"{id.removeprefix('caffe_')}.caffemodel",),
            same_weights_as=f"{architecture}.ptsemseg_{tag}",
            network=NetworkConfig(classes=len(labels), align_corners=True, dilation="uniform"),
            preprocess=_BGR,
        ),
        labels=labels,
    )


def _ptsemseg(
    architecture: str,
    tag: str,
    labels: Labels,
    parameters: int,
    id: str,
    file: str,
    page: str,
    dataset: str,
    metrics: tuple[Metric, ...] = (),
) -> Checkpoint:
    """An entry of the Caffe weights as meetps/pytorch-semseg converted them.

    Caffe pools with kernel and stride floor(size / bin), which is adaptive pooling where the feature map is a multiple of 6, as for
    images of 713 and 473 pixels.
    """
    return Checkpoint(
        architecture=architecture,
        tag=f"ptsemseg_{tag}",
        parameters=parameters,
        license="MIT (repository), weights from hszhao/PSPNet",
        metrics=metrics,
        trained_on=dataset,
        upstream=Upstream(
            id=id,
            family="ptsemseg",
            page=page,
            files=(file,),
            network=NetworkConfig(classes=len(labels), align_corners=True, dilation="uniform"),
            preprocess=_BGR,
        ),
        labels=labels,
    )


_CAFFE_SINGLE = "windows of 713 (Cityscapes) or 473, stride 2/3, logits summed over the flip, long side base + 1"
_CAFFE_MULTI = _CAFFE_SINGLE + "; mean over scales 0.5 to 1.75"
_CAFFE_CITYSCAPES = Task("Cityscapes", "val", CITYSCAPES, _CAFFE_SINGLE, _CAFFE_MULTI, True)
_CAFFE_ADE20K = Task("ADE20K", "val", ADE20K, _CAFFE_SINGLE, _CAFFE_MULTI, True)
_CAFFE_VOC_TEST = Task("Pascal VOC 2012", "test", VOC, _CAFFE_SINGLE, _CAFFE_MULTI, True)

CAFFE = (
    _caffe(
        "pspnet_r101s",
        "cityscapes",
        CITYSCAPES,
        68_072_166,
        "caffe_pspnet101_cityscapes",
        "https://drive.google.com/file/d/1-Me01pX1KUsut_7l6uJXkIbaBxxSVgX0/view",
        (
            _CAFFE_CITYSCAPES.metric(79.7),
            _CAFFE_CITYSCAPES.metric(96.38, name="pixel_accuracy"),
            _CAFFE_CITYSCAPES.metric(80.91, multi_scale=True),
            _CAFFE_CITYSCAPES.metric(96.59, name="pixel_accuracy", multi_scale=True),
        ),
    ),
    _ptsemseg(
        "pspnet_r101s",
        "cityscapes",
        CITYSCAPES,
        68_072_166,
        "ptsemseg_pspnet_101_cityscapes",
        "pspnet_101_cityscapes.pth",
        "https://drive.google.com/open?id=1cz_S-QTqWqV-9K8V_3Gwo6NZ60pI0Oz7",
        "Cityscapes",
        (
            _CAFFE_CITYSCAPES.metric(78.65, protocol="whole image, 2049x1025; no flip"),
            _CAFFE_CITYSCAPES.metric(78.8, protocol="whole image, 2049x1025; flip"),
            _CAFFE_CITYSCAPES.metric(96.31, name="pixel_accuracy", protocol="whole image, 2049x1025; no flip"),
        ),
    ),
    _caffe(
        "pspnet_r50s",
        "ade20k",
        ADE20K,
        49_180_908,
        "caffe_pspnet50_ADE20K",
        "https://drive.google.com/file/d/1SyCa_mEB-WiwvnqyBBBkWycS1zQDtDzW/view",
        (
            _CAFFE_ADE20K.metric(41.68),
            _CAFFE_ADE20K.metric(80.04, name="pixel_accuracy"),
            _CAFFE_ADE20K.metric(42.78, multi_scale=True),
            _CAFFE_ADE20K.metric(80.76, name="pixel_accuracy", multi_scale=True),
        ),
    ),
    _ptsemseg(
        "pspnet_r50s",
        "ade20k",
        ADE20K,
        49_180_908,
        "ptsemseg_pspnet_50_ade20k",
        "pspnet_50_ade20k.pth",
        "https://drive.google.com/open?id=128SKSAhHda8NE5VDWXgIiUhLPP2sBJpf",
        "ADE20K",
    ),
    _caffe(
        "pspnet_r101s",
        "voc12",
        VOC,
        68_073_706,
        "caffe_pspnet101_VOC2012",
        "https://drive.google.com/file/d/1-jjYyRzbNEwsdQYP2UPJVy0ZV_yCVU2N/view",
        (_CAFFE_VOC_TEST.metric(85.41, multi_scale=True),),
    ),
    _ptsemseg(
        "pspnet_r101s",
        "voc12",
        VOC,
        68_073_706,
        "ptsemseg_pspnet_101_voc2012",
        "pspnet_101_pascalvoc.pth",
        "https://github.com/meetps/pytorch-semseg/pull/81",
        "Pascal VOC 2012",
    ),
)
