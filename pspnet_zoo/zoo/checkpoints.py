"""Every published PSPNet checkpoint that converts to a timm encoder, one row each.

Nothing here was measured by this project: addresses, hashes, policies and numbers are as the projects publish them.
Sources: mmseg 1.2.2 configs/pspnet/metafile.yaml and configs/{pspnet,mobilenet_v2,resnest}; README tables of hszhao/semseg,
hszhao/PSPNet, PaddleSeg (configs/pspnet), gluon-cv (model_zoo/segmentation), osmr/imgclsmob (pytorch), SegmenTron,
CSAILVision/semantic-segmentation-pytorch, and meetps/pytorch-semseg pull request 81.

A tag is who_dataset. Where one project has several for an architecture and a data set, the one with the best claim has that tag
and the others say what sets them apart: the crop, the iterations, "d32" for strides that were kept, "rsb" for another pretraining.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..data.labels import (
    ADE20K,
    CITYSCAPES,
    COCO_STUFF,
    ISAID,
    ISPRS,
    LOVEDA,
    PASCAL_CONTEXT,
    PASCAL_CONTEXT_59,
    VOC,
    Labels,
)
from ..meta import Preprocess
from .rows import Checkpoint, Metric, Network, Source

_IMAGENET = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_IMAGENET_255 = Preprocess((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 255.0)
_HALF = Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CAFFE = Preprocess((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, order="BGR")


@dataclass(frozen=True)
class _Task:
    """A data set, and how an upstream evaluates on it."""

    dataset: str
    split: str
    labels: Labels
    single: str
    """The protocol of the single-scale numbers."""
    multi: str
    """The protocol of the multi-scale numbers."""
    align_corners: bool

    def metric(self, value: float, *, name: str = "miou", multi_scale: bool = False, protocol: str = "") -> Metric:
        protocol = protocol or (self.multi if multi_scale else self.single)
        return Metric(name, round(value / 100, 6), self.dataset, self.split, protocol, "claimed", multi_scale)


def _mmseg_task(dataset: str, labels: Labels, single: str, *, split: str = "val", align_corners: bool = False) -> _Task:
    multi = f"{single}; mean over scales 0.5, 0.75, 1, 1.25, 1.5, 1.75 and flip"
    return _Task(dataset, split, labels, f"{single}; no flip", multi, align_corners)


_MMSEG_CITYSCAPES = _mmseg_task("Cityscapes", CITYSCAPES, "whole picture, 2048x1024")
_MMSEG_CITYSCAPES_769 = _mmseg_task("Cityscapes", CITYSCAPES, "windows of 769, stride 513, on 2049x1025", align_corners=True)
_MMSEG_ADE20K = _mmseg_task("ADE20K", ADE20K, "whole picture within 2048x512")
_MMSEG_VOC = _mmseg_task("Pascal VOC 2012 + Aug", VOC, "whole picture within 2048x512")
_MMSEG_CONTEXT = _mmseg_task("Pascal Context", PASCAL_CONTEXT, "windows of 480, stride 320, on 520x520")
_MMSEG_CONTEXT_59 = _mmseg_task("Pascal Context 59", PASCAL_CONTEXT_59, "windows of 480, stride 320, on 520x520")
_MMSEG_COCO_STUFF_10K = _mmseg_task("COCO-Stuff 10k", COCO_STUFF, "whole picture within 2048x512", split="test")
_MMSEG_COCO_STUFF_164K = _mmseg_task("COCO-Stuff 164k", COCO_STUFF, "whole picture within 2048x512")
_MMSEG_LOVEDA = _mmseg_task("LoveDA", LOVEDA, "whole picture, 1024x1024")
_MMSEG_POTSDAM = _mmseg_task("Potsdam", ISPRS, "whole picture, 512x512")
_MMSEG_VAIHINGEN = _mmseg_task("Vaihingen", ISPRS, "whole picture, 512x512")
_MMSEG_ISAID = _mmseg_task("iSAID", ISAID, "whole picture, 896x896")

_OPENMMLAB = "https://download.openmmlab.com/mmsegmentation/v0.5"


def _mmseg(
    architecture: str,
    tag: str,
    task: _Task,
    parameters: int,
    id: str,
    single: float,
    multi: float | None,
    *,
    folder: str | None = None,
    more: tuple[Metric, ...] = (),
) -> Checkpoint:
    """A row of mmseg: the id ends in the first eight digits of the file's sha256.

    `single` and `multi` are the claimed mIoU in percent. `folder` is below the server's root; None for "pspnet/" and the id without
    date and hash. `more` are evaluations on other data sets.
    """
    classes, align_corners = len(task.labels), task.align_corners
    if "-d32_" in id:
        network = Network(classes=classes, align_corners=align_corners, dilation="strided", encoder_output_stride=32)
    elif architecture in ("pspnet_r18", "pspnet_r18c"):
        network = Network(classes=classes, align_corners=align_corners, dilation="first_convolutions", psp_out_channels=128)
    elif architecture == "pspnet_mobilenetv2_100":
        network = Network(
            classes=classes, align_corners=align_corners, dilation="first_blocks", psp_bin_channels=512, aux_channels=256
        )
    elif architecture == "pspnet_resnest101e":
        network = Network(classes=classes, align_corners=align_corners, shortcut_pool="identity")
    else:
        network = Network(classes=classes, align_corners=align_corners)
    folder = folder or "pspnet/" + re.sub(r"_\d{8}_\d{6}-[0-9a-f]{8}$", "", id)
    metrics = [task.metric(single)] + ([task.metric(multi, multi_scale=True)] if multi is not None else [])
    return Checkpoint(
        architecture=architecture,
        tag=f"mmseg_{tag}",
        parameters=parameters,
        license="Apache-2.0",
        metrics=(*metrics, *more),
        source=Source(
            id=id,
            family="mmseg",
            page="https://github.com/open-mmlab/mmsegmentation/tree/v1.2.2/configs/" + folder.partition("/")[0],
            files=(f"{id}.pth",),
            urls=(f"{_OPENMMLAB}/{folder}/{id}.pth",),
            hash=f"sha256:{id[-8:]}",
        ),
        network=network,
        preprocess=_IMAGENET_255,
        labels=task.labels,
    )


def _night(dark_zurich: float, night_driving: float) -> tuple[Metric, ...]:
    """mmseg's evaluation of a Cityscapes checkpoint at night."""
    protocol = "whole picture, 1920x1080; no flip"
    return (
        Metric("miou", round(dark_zurich / 100, 6), "Dark Zurich", "val", protocol, "claimed"),
        Metric("miou", round(night_driving / 100, 6), "Night Driving", "test", protocol, "claimed"),
    )


_MMSEG = (
    _mmseg(
        "pspnet_r50c",
        "cityscapes_512x1024_40k",
        _MMSEG_CITYSCAPES,
        48_975_494,
        "pspnet_r50-d8_512x1024_40k_cityscapes_20200605_003338-2966598c",
        77.85,
        79.18,
        more=_night(10.91, 23.02),
    ),
    _mmseg(
        "pspnet_r101c",
        "cityscapes_512x1024_40k",
        _MMSEG_CITYSCAPES,
        67_967_622,
        "pspnet_r101-d8_512x1024_40k_cityscapes_20200604_232751-467e7cf4",
        78.34,
        79.74,
        more=_night(10.16, 20.25),
    ),
    _mmseg(
        "pspnet_r50c",
        "cityscapes_769_40k",
        _MMSEG_CITYSCAPES_769,
        48_975_494,
        "pspnet_r50-d8_769x769_40k_cityscapes_20200606_112725-86638686",
        78.26,
        79.88,
    ),
    _mmseg(
        "pspnet_r101c",
        "cityscapes_769_40k",
        _MMSEG_CITYSCAPES_769,
        67_967_622,
        "pspnet_r101-d8_769x769_40k_cityscapes_20200606_112753-61c6f5be",
        79.08,
        80.28,
    ),
    _mmseg(
        "pspnet_r18c",
        "cityscapes_512x1024",
        _MMSEG_CITYSCAPES,
        12_790_086,
        "pspnet_r18-d8_512x1024_80k_cityscapes_20201225_021458-09ffa746",
        74.87,
        76.04,
    ),
    _mmseg(
        "pspnet_r50c",
        "cityscapes_512x1024_80k",
        _MMSEG_CITYSCAPES,
        48_975_494,
        "pspnet_r50-d8_512x1024_80k_cityscapes_20200606_112131-2376f12b",
        78.55,
        79.79,
    ),
    _mmseg(
        "pspnet_r50",
        "cityscapes_rsb_512x1024",
        _MMSEG_CITYSCAPES,
        48_956_262,
        "pspnet_r50-d8_rsb-pretrain_512x1024_adamw_80k_cityscapes_20220315_123238-588c30be",
        78.47,
        79.45,
        folder="pspnet/pspnet_r50-d8_512x1024_80k_cityscapes",
    ),
    _mmseg(
        "pspnet_r101c",
        "cityscapes_512x1024_80k",
        _MMSEG_CITYSCAPES,
        67_967_622,
        "pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f",
        79.76,
        81.01,
    ),
    # trained with mmcv's fp16 wrapper: its convolutions may be stored as float16
    _mmseg(
        "pspnet_r101c",
        "cityscapes_fp16_512x1024_80k",
        _MMSEG_CITYSCAPES,
        67_967_622,
        "pspnet_r101-d8_fp16_512x1024_80k_cityscapes_20200717_230919-a0875e5c",
        79.46,
        None,
    ),
    _mmseg(
        "pspnet_r18c",
        "cityscapes",
        _MMSEG_CITYSCAPES_769,
        12_790_086,
        "pspnet_r18-d8_769x769_80k_cityscapes_20201225_021458-3deefc62",
        75.9,
        77.86,
    ),
    _mmseg(
        "pspnet_r50c",
        "cityscapes",
        _MMSEG_CITYSCAPES_769,
        48_975_494,
        "pspnet_r50-d8_769x769_80k_cityscapes_20200606_210121-5ccf03dd",
        79.59,
        80.69,
    ),
    # the metafile has the host download.oz1z1penmmlab.com here, which cannot be meant
    _mmseg(
        "pspnet_r101c",
        "cityscapes",
        _MMSEG_CITYSCAPES_769,
        67_967_622,
        "pspnet_r101-d8_769x769_80k_cityscapes_20200606_225055-dba412fa",
        79.77,
        81.06,
    ),
    _mmseg(
        "pspnet_r18",
        "cityscapes_512x1024",
        _MMSEG_CITYSCAPES,
        12_770_854,
        "pspnet_r18b-d8_512x1024_80k_cityscapes_20201226_063116-26928a60",
        74.23,
        75.79,
    ),
    _mmseg(
        "pspnet_r50",
        "cityscapes_512x1024",
        _MMSEG_CITYSCAPES,
        48_956_262,
        "pspnet_r50b-d8_512x1024_80k_cityscapes_20201225_094315-6344287a",
        78.22,
        79.46,
    ),
    _mmseg(
        "pspnet_r101",
        "cityscapes",
        _MMSEG_CITYSCAPES,
        67_948_390,
        "pspnet_r101b-d8_512x1024_80k_cityscapes_20201226_170012-3a4d38ab",
        79.69,
        80.79,
        more=_night(15.54, 22.25),
    ),
    _mmseg(
        "pspnet_r18",
        "cityscapes",
        _MMSEG_CITYSCAPES_769,
        12_770_854,
        "pspnet_r18b-d8_769x769_80k_cityscapes_20201226_080942-bf98d186",
        74.92,
        76.9,
    ),
    _mmseg(
        "pspnet_r50",
        "cityscapes",
        _MMSEG_CITYSCAPES_769,
        48_956_262,
        "pspnet_r50b-d8_769x769_80k_cityscapes_20201225_094316-4c643cf6",
        78.5,
        79.96,
    ),
    _mmseg(
        "pspnet_r101",
        "cityscapes_769",
        _MMSEG_CITYSCAPES_769,
        67_948_390,
        "pspnet_r101b-d8_769x769_80k_cityscapes_20201226_171823-f0e7c293",
        78.87,
        80.04,
    ),
    # README and metafile name the r50b-d32 config; the right one is pspnet_r50-d32, as the keys of its stem show
    _mmseg(
        "pspnet_r50c",
        "cityscapes_d32_512x1024_80k",
        _MMSEG_CITYSCAPES,
        48_975_494,
        "pspnet_r50-d32_512x1024_80k_cityscapes_20220316_224840-9092b254",
        73.88,
        76.85,
    ),
    _mmseg(
        "pspnet_r50",
        "cityscapes_d32_rsb_512x1024",
        _MMSEG_CITYSCAPES,
        48_956_262,
        "pspnet_r50-d32_rsb-pretrain_512x1024_adamw_80k_cityscapes_20220316_141229-dd9c9610",
        74.09,
        77.18,
    ),
    _mmseg(
        "pspnet_r50",
        "cityscapes_d32_512x1024",
        _MMSEG_CITYSCAPES,
        48_956_262,
        "pspnet_r50b-d32_512x1024_80k_cityscapes_20220311_152152-23bcaf8c",
        72.61,
        75.51,
    ),
    _mmseg(
        "pspnet_r50c",
        "ade20k_80k",
        _MMSEG_ADE20K,
        49_076_364,
        "pspnet_r50-d8_512x512_80k_ade20k_20200615_014128-15a8b914",
        41.13,
        41.94,
    ),
    _mmseg(
        "pspnet_r101c",
        "ade20k_80k",
        _MMSEG_ADE20K,
        68_068_492,
        "pspnet_r101-d8_512x512_80k_ade20k_20200614_031423-b6e782f0",
        43.57,
        44.35,
    ),
    _mmseg(
        "pspnet_r50c",
        "ade20k",
        _MMSEG_ADE20K,
        49_076_364,
        "pspnet_r50-d8_512x512_160k_ade20k_20200615_184358-1890b0bd",
        42.48,
        43.44,
    ),
    _mmseg(
        "pspnet_r101c",
        "ade20k",
        _MMSEG_ADE20K,
        68_068_492,
        "pspnet_r101-d8_512x512_160k_ade20k_20200615_100650-967c316f",
        44.39,
        45.35,
    ),
    _mmseg(
        "pspnet_r50c",
        "voc12aug_20k",
        _MMSEG_VOC,
        48_977_034,
        "pspnet_r50-d8_512x512_20k_voc12aug_20200617_101958-ed5dfbd9",
        76.78,
        77.61,
    ),
    _mmseg(
        "pspnet_r101c",
        "voc12aug_20k",
        _MMSEG_VOC,
        67_969_162,
        "pspnet_r101-d8_512x512_20k_voc12aug_20200617_102003-4aef3c9a",
        78.47,
        79.25,
    ),
    _mmseg(
        "pspnet_r50c",
        "voc12aug",
        _MMSEG_VOC,
        48_977_034,
        "pspnet_r50-d8_512x512_40k_voc12aug_20200613_161222-ae9c1b8c",
        77.29,
        78.48,
    ),
    _mmseg(
        "pspnet_r101c",
        "voc12aug",
        _MMSEG_VOC,
        67_969_162,
        "pspnet_r101-d8_512x512_40k_voc12aug_20200613_161222-bc933b18",
        78.52,
        79.57,
    ),
    _mmseg(
        "pspnet_r101c",
        "pascal_context",
        _MMSEG_CONTEXT,
        67_999_192,
        "pspnet_r101-d8_480x480_40k_pascal_context_20200911_211210-bf0f5d7c",
        46.6,
        47.78,
    ),
    _mmseg(
        "pspnet_r101c",
        "pascal_context_80k",
        _MMSEG_CONTEXT,
        67_999_192,
        "pspnet_r101-d8_480x480_80k_pascal_context_20200911_190530-c86d6233",
        46.03,
        47.15,
    ),
    _mmseg(
        "pspnet_r101c",
        "pascal_context59_40k",
        _MMSEG_CONTEXT_59,
        67_998_422,
        "pspnet_r101-d8_480x480_40k_pascal_context_59_20210416_114524-86d44cd4",
        52.02,
        53.54,
    ),
    _mmseg(
        "pspnet_r101c",
        "pascal_context59",
        _MMSEG_CONTEXT_59,
        67_998_422,
        "pspnet_r101-d8_480x480_80k_pascal_context_59_20210416_114418-fa6caaa2",
        52.47,
        53.99,
    ),
    _mmseg(
        "pspnet_r50c",
        "cocostuff10k_20k",
        _MMSEG_COCO_STUFF_10K,
        49_092_534,
        "pspnet_r50-d8_512x512_4x4_20k_coco-stuff10k_20210820_203258-b88df27f",
        35.69,
        36.62,
    ),
    _mmseg(
        "pspnet_r101c",
        "cocostuff10k_20k",
        _MMSEG_COCO_STUFF_10K,
        68_084_662,
        "pspnet_r101-d8_512x512_4x4_20k_coco-stuff10k_20210820_232135-76aae482",
        37.26,
        38.52,
    ),
    _mmseg(
        "pspnet_r50c",
        "cocostuff10k",
        _MMSEG_COCO_STUFF_10K,
        49_092_534,
        "pspnet_r50-d8_512x512_4x4_40k_coco-stuff10k_20210821_030857-92e2902b",
        36.33,
        37.24,
    ),
    _mmseg(
        "pspnet_r101c",
        "cocostuff10k",
        _MMSEG_COCO_STUFF_10K,
        68_084_662,
        "pspnet_r101-d8_512x512_4x4_40k_coco-stuff10k_20210821_014022-831aec95",
        37.76,
        38.86,
    ),
    _mmseg(
        "pspnet_r50c",
        "cocostuff164k_80k",
        _MMSEG_COCO_STUFF_164K,
        49_092_534,
        "pspnet_r50-d8_512x512_4x4_80k_coco-stuff164k_20210707_152034-0e41b2db",
        38.8,
        39.19,
    ),
    _mmseg(
        "pspnet_r101c",
        "cocostuff164k_80k",
        _MMSEG_COCO_STUFF_164K,
        68_084_662,
        "pspnet_r101-d8_512x512_4x4_80k_coco-stuff164k_20210707_152034-7eb41789",
        40.34,
        40.79,
    ),
    _mmseg(
        "pspnet_r50c",
        "cocostuff164k_160k",
        _MMSEG_COCO_STUFF_164K,
        49_092_534,
        "pspnet_r50-d8_512x512_4x4_160k_coco-stuff164k_20210707_152004-51276a57",
        39.64,
        39.97,
    ),
    _mmseg(
        "pspnet_r101c",
        "cocostuff164k_160k",
        _MMSEG_COCO_STUFF_164K,
        68_084_662,
        "pspnet_r101-d8_512x512_4x4_160k_coco-stuff164k_20210707_152004-4af9621b",
        41.28,
        41.66,
    ),
    _mmseg(
        "pspnet_r50c",
        "cocostuff164k",
        _MMSEG_COCO_STUFF_164K,
        49_092_534,
        "pspnet_r50-d8_512x512_4x4_320k_coco-stuff164k_20210707_152004-be9610cc",
        40.53,
        40.75,
    ),
    _mmseg(
        "pspnet_r101c",
        "cocostuff164k",
        _MMSEG_COCO_STUFF_164K,
        68_084_662,
        "pspnet_r101-d8_512x512_4x4_320k_coco-stuff164k_20210707_152004-72220c60",
        41.95,
        42.42,
    ),
    _mmseg(
        "pspnet_r18c",
        "loveda",
        _MMSEG_LOVEDA,
        12_787_758,
        "pspnet_r18-d8_512x512_80k_loveda_20211105_052100-b97697f1",
        48.62,
        47.57,
    ),
    _mmseg(
        "pspnet_r50c",
        "loveda",
        _MMSEG_LOVEDA,
        48_966_254,
        "pspnet_r50-d8_512x512_80k_loveda_20211104_155728-88610f9f",
        50.46,
        50.19,
    ),
    _mmseg(
        "pspnet_r101c",
        "loveda",
        _MMSEG_LOVEDA,
        67_958_382,
        "pspnet_r101-d8_512x512_80k_loveda_20211104_153212-1c06c6a8",
        51.86,
        51.34,
    ),
    _mmseg(
        "pspnet_r18c",
        "potsdam",
        _MMSEG_POTSDAM,
        12_787_564,
        "pspnet_r18-d8_4x4_512x512_80k_potsdam_20211220_125612-7cd046e1",
        77.09,
        78.3,
    ),
    _mmseg(
        "pspnet_r50c",
        "potsdam",
        _MMSEG_POTSDAM,
        48_965_484,
        "pspnet_r50-d8_4x4_512x512_80k_potsdam_20211219_043541-2dd5fe67",
        78.12,
        78.98,
    ),
    _mmseg(
        "pspnet_r101c",
        "potsdam",
        _MMSEG_POTSDAM,
        67_957_612,
        "pspnet_r101-d8_4x4_512x512_80k_potsdam_20211220_125612-aed036c4",
        78.62,
        79.47,
    ),
    _mmseg(
        "pspnet_r18c",
        "vaihingen",
        _MMSEG_VAIHINGEN,
        12_787_564,
        "pspnet_r18-d8_4x4_512x512_80k_vaihingen_20211228_160355-52a8a6f6",
        71.46,
        73.36,
    ),
    _mmseg(
        "pspnet_r50c",
        "vaihingen",
        _MMSEG_VAIHINGEN,
        48_965_484,
        "pspnet_r50-d8_4x4_512x512_80k_vaihingen_20211228_160355-382f8f5b",
        72.36,
        73.75,
    ),
    _mmseg(
        "pspnet_r101c",
        "vaihingen",
        _MMSEG_VAIHINGEN,
        67_957_612,
        "pspnet_r101-d8_4x4_512x512_80k_vaihingen_20211231_230806-8eba0a09",
        72.61,
        74.18,
    ),
    _mmseg(
        "pspnet_r18c",
        "isaid",
        _MMSEG_ISAID,
        12_789_504,
        "pspnet_r18-d8_4x4_896x896_80k_isaid_20220110_180526-e84c0b6a",
        60.22,
        61.25,
    ),
    _mmseg(
        "pspnet_r50c",
        "isaid",
        _MMSEG_ISAID,
        48_973_184,
        "pspnet_r50-d8_4x4_896x896_80k_isaid_20220110_180629-1f21dc32",
        65.36,
        66.48,
    ),
    _mmseg(
        "pspnet_mobilenetv2_100",
        "cityscapes",
        _MMSEG_CITYSCAPES,
        13_620_262,
        "pspnet_m-v2-d8_512x1024_80k_cityscapes_20200825_124817-19e81d51",
        70.23,
        None,
        folder="mobilenet_v2/pspnet_m-v2-d8_512x1024_80k_cityscapes",
    ),
    _mmseg(
        "pspnet_mobilenetv2_100",
        "ade20k",
        _MMSEG_ADE20K,
        13_721_132,
        "pspnet_m-v2-d8_512x512_160k_ade20k_20200825_214953-f5942f7a",
        29.68,
        None,
        folder="mobilenet_v2/pspnet_m-v2-d8_512x512_160k_ade20k",
    ),
    _mmseg(
        "pspnet_resnest101e",
        "cityscapes",
        _MMSEG_CITYSCAPES,
        71_674_246,
        "pspnet_s101-d8_512x1024_80k_cityscapes_20200807_140631-c75f3b99",
        78.57,
        79.19,
        folder="resnest/pspnet_s101-d8_512x1024_80k_cityscapes",
    ),
    _mmseg(
        "pspnet_resnest101e",
        "ade20k",
        _MMSEG_ADE20K,
        71_775_116,
        "pspnet_s101-d8_512x512_160k_ade20k_20200807_145416-a6daa92a",
        45.44,
        46.28,
        folder="resnest/pspnet_s101-d8_512x512_160k_ade20k",
    ),
)


_SEMSEG_MULTI = "; mean over scales 0.5, 0.75, 1, 1.25, 1.5, 1.75"
_SEMSEG_CITYSCAPES_PROTOCOL = "windows of 713, stride 2/3, flip, long side 2048"
_SEMSEG_PROTOCOL = "windows of 473, stride 2/3, flip, long side 512"
_SEMSEG_CITYSCAPES = _Task(
    "Cityscapes", "val", CITYSCAPES, _SEMSEG_CITYSCAPES_PROTOCOL, _SEMSEG_CITYSCAPES_PROTOCOL + _SEMSEG_MULTI, True
)
_SEMSEG_ADE20K = _Task("ADE20K", "val", ADE20K, _SEMSEG_PROTOCOL, _SEMSEG_PROTOCOL + _SEMSEG_MULTI, True)
_SEMSEG_VOC = _Task("Pascal VOC 2012 + Aug", "val", VOC, _SEMSEG_PROTOCOL, _SEMSEG_PROTOCOL + _SEMSEG_MULTI, True)


def _semseg(
    architecture: str, task: _Task, parameters: int, id: str, file: str, single: tuple[float, ...], multi: tuple[float, ...]
) -> Checkpoint:
    """A row of hszhao/semseg; `single` and `multi` are mIoU, mean and pixel accuracy in percent."""
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
        source=Source(
            id=id,
            family="semseg",
            page=f"https://drive.google.com/open?id=15wx9vOM0euyizq-M1uINgN0_wjVRf9J3 ({file})",
            files=(file.rpartition("/")[2],),
        ),
        network=Network(classes=len(task.labels), align_corners=True, dilation="uniform"),
        preprocess=_IMAGENET_255,
        labels=task.labels,
    )


_SEMSEG = (
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


def _caffe(
    architecture: str, tag: str, labels: Labels, parameters: int, id: str, page: str, metrics: tuple[Metric, ...]
) -> Checkpoint:
    """A row of the original Caffe weights; they are not read, their port to PyTorch is."""
    return Checkpoint(
        architecture=architecture,
        tag=f"caffe_{tag}",
        parameters=parameters,
        license="Caffe BSD-2-Clause (repository)",
        metrics=metrics,
        source=Source(
            id=id,
            family="caffe",
            page=page,
            files=(f"{id.removeprefix('caffe_')}.caffemodel",),
            twin=f"{architecture}.ptsemseg_{tag}",
        ),
        network=Network(classes=len(labels), align_corners=True, dilation="uniform"),
        preprocess=_CAFFE,
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
    """A row of the Caffe weights as meetps/pytorch-semseg converted them.

    Caffe pools with kernel and stride floor(size / bin), which is adaptive pooling where the map is a multiple of 6, as for
    pictures of 713 and 473 pixels.
    """
    return Checkpoint(
        architecture=architecture,
        tag=f"ptsemseg_{tag}",
        parameters=parameters,
        license="MIT (repository), weights from hszhao/PSPNet",
        metrics=metrics,
        trained_on=dataset,
        source=Source(id=id, family="ptsemseg", page=page, files=(file,)),
        network=Network(classes=len(labels), align_corners=True, dilation="uniform"),
        preprocess=_CAFFE,
        labels=labels,
    )


_CAFFE_SINGLE = "windows of 713 (Cityscapes) or 473, stride 2/3, logits summed over the flip, long side base + 1"
_CAFFE_MULTI = _CAFFE_SINGLE + "; mean over scales 0.5 to 1.75"
_CAFFE_CITYSCAPES = _Task("Cityscapes", "val", CITYSCAPES, _CAFFE_SINGLE, _CAFFE_MULTI, True)
_CAFFE_ADE20K = _Task("ADE20K", "val", ADE20K, _CAFFE_SINGLE, _CAFFE_MULTI, True)
_CAFFE_VOC_TEST = _Task("Pascal VOC 2012", "test", VOC, _CAFFE_SINGLE, _CAFFE_MULTI, True)

_ORIGINAL = (
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
            _CAFFE_CITYSCAPES.metric(78.65, protocol="whole picture, 2049x1025; no flip"),
            _CAFFE_CITYSCAPES.metric(78.8, protocol="whole picture, 2049x1025; flip"),
            _CAFFE_CITYSCAPES.metric(96.31, name="pixel_accuracy", protocol="whole picture, 2049x1025; no flip"),
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
    """The rows of gluon-cv's MXNet file, which is not read, and of osmr/pytorchcv's file with the same weights for PyTorch."""
    network = Network(classes=len(labels), align_corners=True)
    task = _Task(dataset, "val", labels, _GLUON_PROTOCOL, "", True)
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
        source=Source(
            id=gluon_id,
            family="gluoncv",
            page="https://cv.gluon.ai/model_zoo/segmentation.html",
            files=(f"{gluon_file}-{gluon_sha1[:8]}.params",),
            urls=(f"https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/models/{gluon_file}-{gluon_sha1[:8]}.zip",),
            hash=f"sha1:{gluon_sha1}",
            twin=f"{architecture}.pytorchcv_{tag}",
        ),
        network=network,
        preprocess=_IMAGENET_255,
        labels=labels,
    )
    pytorch = Checkpoint(
        architecture=architecture,
        tag=f"pytorchcv_{tag}",
        parameters=parameters,
        license="MIT (code); weights from gluon-cv, Apache-2.0",
        metrics=(task.metric(pytorchcv_miou, protocol="one pass at 480x480, by pytorchcv"), claim),
        source=Source(
            id=pytorchcv_id,
            family="pytorchcv",
            page="https://github.com/osmr/imgclsmob/releases/tag/v0.0.297",
            files=(file,),
            urls=(f"https://github.com/osmr/imgclsmob/releases/download/v0.0.297/{file}.zip",),
            hash=f"sha1:{pytorchcv_sha1}",
        ),
        network=network,
        preprocess=_IMAGENET_255,
        labels=labels,
    )
    return pytorch, mxnet


_GLUON = (
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


_PADDLE_MULTI = "whole picture; mean over several scales and flip"
_PADDLE_CITYSCAPES = _Task("Cityscapes", "val", CITYSCAPES, "whole picture, 2048x1024; no flip", _PADDLE_MULTI, False)
_PADDLE_VOC = _Task("Pascal VOC 2012 + Aug", "val", VOC, "whole picture; no flip", _PADDLE_MULTI, False)


def _paddleseg(
    architecture: str, tag: str, task: _Task, parameters: int, folder: str, single: float, flip: float, multi: float
) -> Checkpoint:
    """A row of PaddleSeg; `single`, `flip` and `multi` are mIoU in percent. No hash is published."""
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
        source=Source(
            id=f"paddleseg_{name}",
            family="paddleseg",
            page="https://github.com/PaddlePaddle/PaddleSeg/tree/develop/configs/pspnet",
            files=("model.pdparams",),
            urls=(f"https://bj.bcebos.com/paddleseg/dygraph/{folder}/model.pdparams",),
        ),
        network=Network(
            classes=len(task.labels),
            align_corners=False,
            dilation="uniform",
            shortcut_pool="identity",
            psp_out_channels=1024,
        ),
        preprocess=_HALF,
        labels=task.labels,
    )


_PADDLESEG = (
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


_CSAIL = _Task(
    "ADE20K",
    "val",
    ADE20K,
    "whole picture, one scale",
    "whole picture, long side at most 1000; mean over short sides 300, 375, 450, 525, 600",
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
    """A row of CSAILVision/semantic-segmentation-pytorch. No hash is published.

    Only the address of ResNet-50 is spelled out in the repository (demo_test.sh); the others follow the names of their configs.
    """
    files = (f"encoder_epoch_{epoch}.pth", f"decoder_epoch_{epoch}.pth")
    return Checkpoint(
        architecture=architecture,
        tag="csail_ade20k",
        parameters=parameters,
        license="BSD-3-Clause",
        metrics=(_CSAIL.metric(single), _CSAIL.metric(multi, multi_scale=True)),
        source=Source(
            id=f"csail_{name}",
            family="csail",
            page="https://github.com/CSAILVision/semantic-segmentation-pytorch",
            files=files,
            urls=tuple(f"http://sceneparsing.csail.mit.edu/model/pytorch/{name}/{file}" for file in files),
        ),
        network=Network(
            classes=len(ADE20K),
            align_corners=False,
            psp_bin_channels=psp_bin_channels,
            aux_channels=aux_channels,
            aux_from=aux_from,
        ),
        preprocess=_IMAGENET,
        labels=ADE20K,
    )


_CSAIL_ROWS = (
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


_SEGMENTRON = Checkpoint(
    architecture="pspnet_r101",
    tag="segmentron_cityscapes",
    parameters=67_948_390,
    license="Apache-2.0",
    metrics=(Metric("miou", 0.77, "Cityscapes", "val", "whole picture, 2049x1025; no flip", "claimed"),),
    source=Source(
        id="pspnet_resnet101_segmentron",
        family="segmentron",
        page="https://github.com/LikeLy-Journey/SegmenTron/releases/tag/v0.1.0",
        files=("pspnet_resnet101_segmentron.pth",),
        urls=("https://github.com/LikeLy-Journey/SegmenTron/releases/download/v0.1.0/pspnet_resnet101_segmentron.pth",),
    ),
    network=Network(classes=19, align_corners=True),
    preprocess=_IMAGENET,
    labels=CITYSCAPES,
)

UPSTREAM: tuple[Checkpoint, ...] = (
    *_MMSEG,
    *_SEMSEG,
    *_PADDLESEG,
    *_GLUON,
    *_ORIGINAL,
    _SEGMENTRON,
    *_CSAIL_ROWS,
)
"""The checkpoints of other projects."""


# Of the files that can be fetched by their address, the best claimed single-scale mIoU on Cityscapes, in percent.
DEFAULT_TAGS: Mapping[str, str] = {
    "pspnet_mobilenetv2_100": "mmseg_cityscapes",  # 70.23 on Cityscapes
    "pspnet_r101": "mmseg_cityscapes",  # 79.69 on Cityscapes
    "pspnet_r101c": "mmseg_cityscapes",  # 79.77 on Cityscapes
    "pspnet_r101d": "paddleseg_cityscapes",  # 80.48 on Cityscapes
    "pspnet_r101s": "pytorchcv_cityscapes",  # 79.9 on Cityscapes
    "pspnet_r18": "mmseg_cityscapes",  # 74.92 on Cityscapes
    "pspnet_r18c": "mmseg_cityscapes",  # 75.9 on Cityscapes
    "pspnet_r18s": "csail_ade20k",  # 38.0 on ADE20K; no Cityscapes file can be fetched by address
    "pspnet_r50": "mmseg_cityscapes",  # 78.5 on Cityscapes
    "pspnet_r50c": "mmseg_cityscapes",  # 79.59 on Cityscapes
    "pspnet_r50d": "paddleseg_cityscapes",  # 78.83 on Cityscapes
    "pspnet_r50s": "pytorchcv_ade20k",  # 41.5 on ADE20K; no Cityscapes file can be fetched by address
    "pspnet_resnest101e": "mmseg_cityscapes",  # 78.57 on Cityscapes
}
"""The tag of `pretrained=True`, for each architecture that has weights."""
