"""Checkpoints of open-mmlab/mmsegmentation.

Source: mmseg 1.2.2 configs/pspnet/metafile.yaml and configs/{pspnet,mobilenet_v2,resnest}.
"""

import re

from ...data.labels import ADE20K, CITYSCAPES, COCO_STUFF, ISAID, ISPRS, LOVEDA, PASCAL_CONTEXT, PASCAL_CONTEXT_59, VOC
from ...meta import Labels, Metric
from ..entries import Checkpoint, NetworkConfig, Upstream
from .task import IMAGENET_255, Task


def _mmseg_task(dataset: str, labels: Labels, single: str, *, split: str = "val", align_corners: bool = False) -> Task:
    multi = f"{single}; mean over scales 0.5, 0.75, 1, 1.25, 1.5, 1.75 and flip"
    return Task(dataset, split, labels, f"{single}; no flip", multi, align_corners)


_MMSEG_CITYSCAPES = _mmseg_task("Cityscapes", CITYSCAPES, "whole image, 2048x1024")
_MMSEG_CITYSCAPES_769 = _mmseg_task("Cityscapes", CITYSCAPES, "windows of 769, stride 513, on 2049x1025", align_corners=True)
_MMSEG_ADE20K = _mmseg_task("ADE20K", ADE20K, "whole image within 2048x512")
_MMSEG_VOC = _mmseg_task("Pascal VOC 2012 + Aug", VOC, "whole image within 2048x512")
_MMSEG_CONTEXT = _mmseg_task("Pascal Context", PASCAL_CONTEXT, "windows of 480, stride 320, on 520x520")
_MMSEG_CONTEXT_59 = _mmseg_task("Pascal Context 59", PASCAL_CONTEXT_59, "windows of 480, stride 320, on 520x520")
_MMSEG_COCO_STUFF_10K = _mmseg_task("COCO-Stuff 10k", COCO_STUFF, "whole image within 2048x512", split="test")
_MMSEG_COCO_STUFF_164K = _mmseg_task("COCO-Stuff 164k", COCO_STUFF, "whole image within 2048x512")
_MMSEG_LOVEDA = _mmseg_task("LoveDA", LOVEDA, "whole image, 1024x1024")
_MMSEG_POTSDAM = _mmseg_task("Potsdam", ISPRS, "whole image, 512x512")
_MMSEG_VAIHINGEN = _mmseg_task("Vaihingen", ISPRS, "whole image, 512x512")
_MMSEG_ISAID = _mmseg_task("iSAID", ISAID, "whole image, 896x896")

_OPENMMLAB = "https://download.openmmlab.com/mmsegmentation/v0.5"


def _mmseg(
    architecture: str,
    tag: str,
    task: Task,
    parameters: int,
    id: str,
    single: float,
    multi: float | None,
    *,
    folder: str | None = None,
    more: tuple[Metric, ...] = (),
) -> Checkpoint:
    """An entry of mmseg: the id ends in the first eight digits of the file's sha256.

    `single` and `multi` are the claimed mIoU in percent. `folder` is below the server's root; None for "pspnet/" and the id without
    date and hash. `more` are evaluations on other datasets.
    """
    classes, align_corners = len(task.labels), task.align_corners
    if "-d32_" in id:
        network = NetworkConfig(classes=classes, align_corners=align_corners, dilation="strided", encoder_output_stride=32)
    elif architecture in ("pspnet_r18", "pspnet_r18c"):
        network = NetworkConfig(classes=classes, align_corners=align_corners, dilation="first_convolutions", psp_out_channels=128)
    elif architecture == "pspnet_mobilenetv2_100":
        network = NetworkConfig(
            classes=classes, align_corners=align_corners, dilation="first_blocks", psp_bin_channels=512, aux_channels=256
        )
    elif architecture == "pspnet_resnest101e":
        network = NetworkConfig(classes=classes, align_corners=align_corners, shortcut_pool="identity")
    else:
        network = NetworkConfig(classes=classes, align_corners=align_corners)
    folder = folder or "pspnet/" + re.sub(r"_\d{8}_\d{6}-[0-9a-f]{8}$", "", id)
    metrics = [task.metric(single)] + ([task.metric(multi, multi_scale=True)] if multi is not None else [])
    return Checkpoint(
        architecture=architecture,
        tag=f"mmseg_{tag}",
        parameters=parameters,
        license="Apache-2.0",
        metrics=(*metrics, *more),
        upstream=Upstream(
            id=id,
            family="mmseg",
            page="https://github.com/open-mmlab/mmsegmentation/tree/v1.2.2/configs/" + folder.partition("/")[0],
            files=(f"{id}.pth",),
            urls=(f"{_OPENMMLAB}/{folder}/{id}.pth",),
            hash=f"sha256:{id[-8:]}",
            network=network,
            preprocess=IMAGENET_255,
        ),
        labels=task.labels,
    )


def _night(dark_zurich: float, night_driving: float) -> tuple[Metric, ...]:
    """mmseg's evaluation of a Cityscapes checkpoint at night."""
    protocol = "whole image, 1920x1080; no flip"
    return (
        Metric("miou", round(dark_zurich / 100, 6), "Dark Zurich", "val", protocol, "claimed"),
        Metric("miou", round(night_driving / 100, 6), "Night Driving", "test", protocol, "claimed"),
    )


MMSEG = (
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
