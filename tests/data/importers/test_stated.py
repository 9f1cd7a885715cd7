"""What the user states of images and masks in place of the guesses: --images, --masks and --format."""

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.importers.recognise import read_source
from pspnet_zoo.data.importers.values import MaskOptions
from tests.data.importers.conftest import true_masks, write_images, write_masks

NAMES = ("background", "cat", "dog")


def write_voc(root, names="abc"):
    """Masks and a list of Pascal VOC without images."""
    write_masks(root / "SegmentationClass", {name: true_masks()[name] for name in names})
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names) + "\n")


@pytest.mark.parametrize("has_own", [False, True])
def test_the_images_of_voc_are_those_of_the_stated_folder(tmp_path, imported, has_own):
    write_voc(tmp_path / "voc")
    if has_own:
        write_images(tmp_path / "voc" / "JPEGImages", size=(32, 24))
    files = write_images(tmp_path / "photos" / "2012", "ab")
    result = imported(tmp_path / "voc", "voc", images=tmp_path / "photos")
    assert result.images == files and set(result.masks) == {"a", "b"}
    assert result.problems == [f"No image 'c.jpg', nor one that ends in .jpeg or .png, in '{tmp_path}/photos'"]


def test_voc_without_images_says_which_are_missing_and_how_they_are_named(tmp_path):
    write_voc(tmp_path / "voc")
    with pytest.raises(ValueError, match=r"The first problem: No file '.*JPEGImages/a.jpg'; if .* name it by --images"):
        read_source(tmp_path / "voc", "voc")
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match=r"The first problem: No image 'a.jpg', nor one .* in '.*photos'$"):
        read_source(tmp_path / "voc", "voc", images=tmp_path / "photos")


@pytest.mark.parametrize("kind", [None, "masks"])
def test_images_of_another_folder_than_the_stated_one_are_left_alone(tmp_path, imported, kind):
    write_images(tmp_path / "set" / "images", size=(32, 24))
    files = write_images(tmp_path / "set" / "rgb")
    write_masks(tmp_path / "set" / "masks", true_masks())
    result = imported(tmp_path / "set", kind, images=tmp_path / "set" / "rgb", masks=MaskOptions(names=NAMES))
    assert result.images == files and not result.problems
    assert all((result.masks[name] == mask).all() for name, mask in true_masks().items())


def test_ids_stay_ids_where_palettes_differ(tmp_path, imported):
    write_images(tmp_path / "set" / "images")
    (tmp_path / "set" / "masks").mkdir()
    random = np.random.default_rng(0)
    for name, mask in true_masks().items():
        image = Image.fromarray(mask)
        image.putpalette(random.integers(0, 256, 9, np.uint8).tobytes())
        image.save(tmp_path / "set" / "masks" / f"{name}.png")
    result = imported(tmp_path / "set", "ids", masks=MaskOptions(names=NAMES))
    assert result.format == "ids" and result.names == NAMES
    assert all((result.masks[name] == mask).all() for name, mask in true_masks().items())


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_grays_are_colors_where_that_is_stated(tmp_path, imported, mode):
    write_images(tmp_path / "set" / "images")
    (tmp_path / "set" / "masks").mkdir()
    for name, mask in true_masks().items():  # one of them always RGB
        image = Image.fromarray(np.array([0, 128, 255], np.uint8)[mask])
        image.convert("RGB" if name == "a" else mode).save(tmp_path / "set" / "masks" / f"{name}.png")
    result = imported(tmp_path / "set", "colors")
    assert result.format == "colors" and not result.problems
    assert {*zip(result.names, result.written.labels.colors, strict=True)} == {
        ("background", (0, 0, 0)), ("color_808080", (128, 128, 128)), ("color_ffffff", (255, 255, 255))
    }  # fmt: skip
    names = np.array(["background", "color_808080", "color_ffffff"])
    assert all((result.named(name) == names[mask]).all() for name, mask in true_masks().items())


def test_numbers_that_are_no_colors_are_refused_as_such(tmp_path):
    write_images(tmp_path / "set" / "images")
    (tmp_path / "set" / "masks").mkdir()
    for name, mask in true_masks().items():
        Image.fromarray(mask.astype(np.int32) * 70_000).save(tmp_path / "set" / "masks" / f"{name}.tif")
    with pytest.raises(ValueError, match="The masks hold 70000, and colors have up to 16 bits; take --format ids"):
        read_source(tmp_path / "set", "colors")


@pytest.mark.parametrize("pattern", ["drawn/{stem}*.png", "drawn/*{stem}_x.png", "drawn/{stem}**.png", "d*/{stem}_*.png"])
def test_stars_beside_the_stem_are_anything_in_one_name(tmp_path, imported, pattern):
    write_images(tmp_path / "photos")
    write_masks(tmp_path / "drawn", true_masks(), "_x")
    write_masks(tmp_path / "drawn" / "below", true_masks(), "_x")
    result = imported(tmp_path, images=tmp_path / "photos", masks=MaskOptions(pattern, names=NAMES))
    assert all((result.masks[name] == mask).all() for name, mask in true_masks().items())
    assert not [problem for problem in result.problems if "below" in problem]


def test_a_star_beside_the_class_is_anything(tmp_path):
    write_images(tmp_path / "photos", "a")
    for label in ("cat", "dog"):
        write_masks(tmp_path / "drawn", {"a": true_masks()["a"]}, f"-{label}")
    for pattern in ("drawn/{stem}-{class}*.png", "drawn/{stem}*{class}.*"):
        source = read_source(tmp_path, None, images=tmp_path / "photos", masks=MaskOptions(pattern))
        assert len(source.samples[0].objects) == 2


def test_a_mask_that_fits_several_stems_is_of_the_longest(tmp_path):
    write_images(tmp_path / "photos", ("site-1", "site-1-2"))
    for stem in ("site-1", "site-1-2"):
        write_masks(tmp_path / "drawn", {stem: true_masks()["a"]}, "-car")
    source = read_source(tmp_path, None, images=tmp_path / "photos", masks=MaskOptions("drawn/{stem}-{class}.png"))
    assert [each.name for each in source.categories.values()] == ["car"] and not source.problems
    drawn = {sample.name: [each.where for each in sample.objects] for sample in source.samples}
    assert drawn == {stem: [f"'{tmp_path}/drawn/{stem}-car.png'"] for stem in ("site-1", "site-1-2")}
