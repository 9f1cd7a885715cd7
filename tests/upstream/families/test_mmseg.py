"""mmseg's config, which its files carry, against the entry."""

from dataclasses import replace

import pytest

from pspnet_zoo.storage.files import WeightsError
from pspnet_zoo.upstream.families.mmseg import check_config
from pspnet_zoo.zoo.registry import CHECKPOINTS, find_checkpoint

ROW = find_checkpoint("pspnet_r50-d8_512x1024_80k_cityscapes_20200606_112131-2376f12b")

# as mmcv prints it: calls of dict, names that stand for other values, and keys that do not matter here
CONFIG = """norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_val=0),
    pretrained='open-mmlab://resnet50_v1c',
    backbone=dict(
        type='ResNetV1c', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1),
        norm_cfg=norm_cfg, norm_eval=False, style='pytorch', contract_dilation=True),
    decode_head=dict(
        type='PSPHead', in_channels=2048, channels=512, pool_scales=[1, 2, 3, 6], num_classes=19, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(type='FCNHead', in_channels=1024, channels=256, num_classes=19, align_corners=False))
optimizer = dict(type='SGD', lr=0.01)
"""


def check(text, entry, **changes):
    check_config(text, entry.architecture, replace(entry.upstream.network, **changes), entry.upstream.preprocess)


def test_config_of_the_row_is_accepted():
    check(CONFIG, ROW)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "align_corners=False,\n        loss",
            "align_corners=True,\n        loss",
            "decode_head.align_corners is True in the file, False",
        ),
        ("num_classes=19, align_corners=False))", "num_classes=21, align_corners=False))", "auxiliary_head.num_classes is 21"),
        ("strides=(1, 2, 1, 1)", "strides=(1, 2, 2, 2)", r"backbone.strides is \(1, 2, 2, 2\) in the file"),
        ("contract_dilation=True", "contract_dilation=False", "backbone.contract_dilation is False"),
        ("'ResNetV1c'", "'ResNet'", "backbone.type is 'ResNet' in the file, 'ResNetV1c'"),
        ("depth=50", "depth=101", "backbone.depth is 101"),
        ("'pytorch'", "'caffe'", "backbone.style is 'caffe' in the file, 'pytorch'"),
        ("[123.675, 116.28, 103.53]", "[0, 0, 0]", r"data_preprocessor.mean is \(0, 0, 0\) in the file, \(123.675, "),
        ("[58.395, 57.12, 57.375]", "[1, 1, 1]", r"data_preprocessor.std is \(1, 1, 1\)"),
        ("bgr_to_rgb=True", "bgr_to_rgb=False", "data_preprocessor.bgr_to_rgb is False in the file, True"),
        ("[1, 2, 3, 6]", "(1, 2, 3, 4)", "decode_head.pool_scales"),
    ],
)
def test_contradictions_are_refused(old, new, message):
    assert old in CONFIG
    with pytest.raises(WeightsError, match=message):
        check(CONFIG.replace(old, new), ROW)


def test_every_contradiction_is_named():
    with pytest.raises(WeightsError, match=r"decode_head.num_classes.*; .*auxiliary_head.num_classes") as error:
        check(CONFIG, ROW, classes=7)
    assert str(error.value).count(" in the entry") == 2


def test_json_like_and_partial_configs_are_read():
    with pytest.raises(WeightsError, match="align_corners is True"):
        check("model = {'decode_head': {'align_corners': True}}", ROW)
    check("model = dict(decode_head=dict(align_corners=some_name))", ROW)
    check("", ROW)


def test_config_text_with_file_names_is_read():
    with pytest.raises(WeightsError, match="num_classes is 150"):
        check("/home/user/configs/a.py\nmodel = dict(decode_head=dict(num_classes=150))\n", ROW)


def test_config_is_never_run(tmp_path):
    check(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nmodel = open({str(tmp_path / 'ran')!r}, 'w')",
        ROW,
    )
    assert not (tmp_path / "ran").exists()


def test_text_that_is_no_config_is_not_compared_and_said_so(caplog):
    check("model = dict(", ROW)
    assert "was not compared" in caplog.text


@pytest.mark.parametrize(
    "entry", [entry for entry in CHECKPOINTS if entry.upstream and entry.upstream.family == "mmseg"], ids=lambda entry: entry.tag
)
def test_flipping_align_corners_contradicts_every_row(entry):
    config = f"model = dict(decode_head=dict(align_corners={entry.upstream.network.align_corners}))"
    check(config, entry)
    with pytest.raises(WeightsError, match="align_corners"):
        check(config, entry, align_corners=not entry.upstream.network.align_corners)
