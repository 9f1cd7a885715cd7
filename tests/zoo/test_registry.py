"""Names, and every entry of the zoo."""

import hashlib

import pytest
import torch

from pspnet_zoo import list_models
from pspnet_zoo.factory import create
from pspnet_zoo.storage.files import WEIGHTS_FILE
from pspnet_zoo.zoo.registry import BUNDLED, CHECKPOINTS, find_checkpoint, parse_architecture


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("pspnet_r101", "resnet101"),
        ("pspnet_r50c", "resnet50c"),
        ("pspnet_r101s", "resnet101s"),
        ("pspnet_lite0", "tf_efficientnet_lite0"),
        ("pspnet_resnet101", "resnet101"),
        ("pspnet_resnet50_gn", "resnet50_gn"),
        ("pspnet_mobilenetv2_100", "mobilenetv2_100"),
        ("pspnet_convnext_tiny", "convnext_tiny"),
    ],
)
def test_a_name_stands_for_an_encoder(name, encoder):
    assert parse_architecture(name)[0] == encoder


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pspnet_r11", "pspnet_r1"), ("pspnet_lite", "'pspnet_lite0'"), ("resnet50", "Unknown model 'resnet50'"), ("", "''")],
)
def test_a_wrong_name_gets_the_closest_ones(name, hint):
    with pytest.raises(ValueError, match=hint) as caught:
        parse_architecture(name)
    assert str(caught.value).endswith("See pspnet_zoo.list_models(), or run: pspnet-zoo list")


def test_names_are_listed_in_natural_order():
    names = list_models("pspnet_r[0-9]*")
    assert names.index("pspnet_r18") < names.index("pspnet_r50") < names.index("pspnet_r101")
    assert "pspnet_lite0" in list_models() and "pspnet_lite0.camvid" in list_models(pretrained=True)
    assert len(set(list_models())) == len(list_models())


def test_rows_are_found_by_name_by_tag_and_by_default():
    entry = find_checkpoint("pspnet_lite0.camvid")
    assert find_checkpoint("pspnet_lite0") is find_checkpoint("pspnet_lite0", "camvid") is entry


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("pspnet_lite0", "imagenet", "no weights 'imagenet'. It has: camvid"),
        ("pspnet_r18.nowhere", None, "'pspnet_r18' has no weights 'nowhere'. It has: mmseg_"),
        ("pspnet_r34", None, "There are weights for: pspnet_lite0, "),
        ("pspnet_resnet50", None, "published weights under the name 'pspnet_r50'. It has: mmseg_"),
        ("pspnet_resnet50.mmseg_x", None, "published weights under the name 'pspnet_r50'. It has: mmseg_"),
        ("pspnet_lite1", None, "Did you mean 'pspnet_lite0"),
    ],
)
def test_weights_that_do_not_exist_get_those_that_do(name, tag, message):
    with pytest.raises(ValueError, match=message):
        find_checkpoint(name, tag)


@pytest.mark.parametrize("entry", [entry for entry in CHECKPOINTS if entry.folder], ids=lambda entry: entry.name)
def test_a_bundled_row_is_true(entry):
    with torch.device("meta"):
        network = create(entry.architecture, classes=len(entry.labels))
    assert sum(p.numel() for p in network.parameters()) == entry.parameters
    assert hashlib.sha256((BUNDLED / entry.folder / WEIGHTS_FILE).read_bytes()).hexdigest() == entry.sha256
    assert all(0 < m.value < 1 for m in entry.metrics if m.name != "loss")
    assert (BUNDLED / entry.folder / WEIGHTS_FILE).stat().st_size <= 9_000_000


def test_names_of_rows_are_unique():
    names = [entry.name for entry in CHECKPOINTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("entry", [entry for entry in CHECKPOINTS if entry.folder], ids=lambda entry: entry.name)
def test_the_readme_and_the_card_give_the_measured_numbers(entry):
    root = BUNDLED.parents[2]
    card = (BUNDLED / entry.folder / "README.md").read_text()
    for metric in entry.metrics:
        assert f"{metric.value:.4f}" in card and metric.origin == "measured"
    miou = next(f"{100 * m.value:.2f}" for m in entry.metrics if m.name == "miou")
    row = next(line for line in (root / "README.md").read_text().splitlines() if line.startswith(f"| `{entry.name}` |"))
    assert f"| {miou}" in row and f"| {entry.parameters / 1e6:.1f} M |" in row and "measured" in row


def test_two_tags_that_differ_are_refused():
    with pytest.raises(ValueError, match="names the weights 'mmseg_ade20k', and 'mmseg_cityscapes' are asked for too"):
        find_checkpoint("pspnet_r101c.mmseg_ade20k", "mmseg_cityscapes")
    assert find_checkpoint("pspnet_r101c.mmseg_ade20k", "mmseg_ade20k").tag == "mmseg_ade20k"


@pytest.mark.parametrize(("name", "meant"), [("PSPNET_R101", "'pspnet_r101'"), ("pspnet_lite0.CamVid", "'pspnet_lite0.camvid'")])
def test_names_in_other_letters_get_a_suggestion(name, meant):
    with pytest.raises(ValueError, match=f"Did you mean {meant}"):
        find_checkpoint(name)


def test_a_tag_of_timms_is_told_from_one_of_the_zoo():
    with pytest.raises(ValueError, match=r"create\('pspnet_resnet50', encoder_weights='a1_in1k'\)"):
        find_checkpoint("pspnet_resnet50.a1_in1k")
