"""What the user states of images and masks in place of the guesses: --images, --masks and --format."""

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.importers.recognise import read_source
from pspnet_zoo.data.importers.values import MaskOptions
from tests.data.importers.conftest import true_masks, write_images, write_masks
from tests.data.importers.test_formats import write_deep_png

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


@pytest.fixture
def two_folders(tmp_path):
    """Images of one name in two folders, with other ids in their masks."""
    masks = true_masks()
    for folder, name in (("train", "a"), ("val", "b")):
        write_images(tmp_path / folder / "images", "7")
        write_masks(tmp_path / folder / "masks", {"7": masks[name]})
    return tmp_path


def test_images_of_one_name_in_two_folders_have_the_masks_of_their_own(two_folders):
    source = read_source(two_folders, None, masks=MaskOptions("*/masks/{stem}.png", names=NAMES))
    assert source.format == "ids" and not source.problems
    found = {sample.image.relative_to(two_folders).as_posix(): sample.values() for sample in source.samples}
    assert set(found) == {"train/images/7.jpg", "val/images/7.jpg"}
    assert (found["train/images/7.jpg"] == true_masks()["a"]).all() and (found["val/images/7.jpg"] == true_masks()["b"]).all()


@pytest.mark.parametrize("both", [True, False])
def test_an_image_of_one_split_does_not_get_the_mask_of_another(two_folders, both):
    if not both:
        (two_folders / "train" / "images" / "7.jpg").unlink()
        write_images(two_folders / "train" / "images", "8")
        write_masks(two_folders / "train" / "masks", {"8": true_masks()["a"]})
    source = read_source(two_folders, None, masks=MaskOptions("train/masks/{stem}.png", names=NAMES))
    assert [sample.image.relative_to(two_folders).as_posix() for sample in source.samples] == [
        f"train/images/{7 if both else 8}.jpg"
    ]
    assert f"'{two_folders}/val/images/7.jpg' has no mask" in source.problems


def test_a_folder_that_is_called_as_the_stem_or_class_says_nothing_of_the_split(tmp_path):
    write_images(tmp_path / "val" / "images", ["test_1"])
    write_masks(tmp_path / "drawn" / "test_1" / "train", {"x": true_masks()["a"]})
    source = read_source(tmp_path, None, masks=MaskOptions("drawn/{stem}/{class}/*.png"))
    assert [each.name for each in source.categories.values()] == ["train"] and not source.problems


def test_masks_of_objects_are_of_the_image_in_the_folder_that_is_most_like_theirs(tmp_path):
    for folder in ("siteA", "siteB"):
        write_images(tmp_path / folder / "images", "7")
        write_masks(tmp_path / folder / "masks" / "7", {name: true_masks()["a"] for name in "xy"})
    source = read_source(tmp_path, None, masks=MaskOptions("*/masks/{stem}/*.png"))
    drawn = {sample.name: [each.where for each in sample.objects] for sample in source.samples}
    assert drawn == {f"{s}/7": [f"'{tmp_path}/{s}/masks/7/{name}.png'" for name in "xy"] for s in ("siteA", "siteB")}


@pytest.mark.parametrize("other", ["images/old/7.jpg", "labels/b/7.jpg"])
def test_a_mask_is_of_no_image_in_a_folder_less_like_its_own_and_of_no_other_mask(tmp_path, other):
    for file in (tmp_path / "images" / "7.jpg", tmp_path / other):
        write_images(file.parent, "7")
    folder = "masks/a" if "labels" in other else "masks"
    write_masks(tmp_path / folder, {"7": true_masks()["a"]})
    source = read_source(tmp_path, None, masks=MaskOptions(folder + "/{stem}.png", names=NAMES))
    assert [sample.image for sample in source.samples] == [tmp_path / "images" / "7.jpg"]
    assert source.problems == [f"'{tmp_path / other}' has no mask"]


def test_a_mask_that_fits_images_of_two_folders_alike_is_of_neither_and_named(tmp_path):
    for folder in ("siteA", "siteB"):
        write_images(tmp_path / folder, "7")
    write_images(tmp_path / "siteA", "8")
    write_masks(tmp_path / "masks", {"7": true_masks()["a"], "8": true_masks()["a"]})
    source = read_source(tmp_path, None, masks=MaskOptions("masks/{stem}.png", names=NAMES))
    assert [sample.name for sample in source.samples] == ["siteA/8"]
    fits = f"'{tmp_path}/masks/7.png' fits '{tmp_path}/siteA/7.jpg' and '{tmp_path}/siteB/7.jpg'"
    assert source.problems == [f"{fits}, so that neither is imported; name the folder of its image by --images, or rename one"]
    (tmp_path / "siteA" / "8.jpg").unlink()
    (tmp_path / "masks" / "8.png").unlink()
    with pytest.raises(ValueError, match=r"belong together for the pattern .*The first problem: '.*7.png' fits '.*7.jpg' and"):
        read_source(tmp_path, None, masks=MaskOptions("masks/{stem}.png"))


@pytest.mark.parametrize("pattern", ["masks/*/{stem}.png", "masks/siteA/{stem}.png"])
def test_a_mask_in_a_folder_of_images_is_of_no_image_of_another_folder(tmp_path, pattern):
    write_images(tmp_path / "images" / "siteA", "2")
    write_images(tmp_path / "images" / "siteB", "1")
    write_masks(tmp_path / "masks" / "siteA", {"1": true_masks()["a"], "2": true_masks()["b"]})
    source = read_source(tmp_path, None, masks=MaskOptions(pattern, names=NAMES))
    assert [sample.name for sample in source.samples] == ["siteA/2"]
    without = [f"'{tmp_path}/images/siteB/1.jpg' has no mask", f"'{tmp_path}/masks/siteA/1.png' is a mask without an image"]
    assert source.problems == without


def test_a_mask_of_a_folder_without_images_is_no_second_mask_of_an_image_that_has_its_own(tmp_path):
    write_images(tmp_path / "images" / "siteB", "7")
    for folder, name in (("siteA", "a"), ("siteB", "b")):
        write_masks(tmp_path / "masks" / folder, {"7": true_masks()[name]})
    source = read_source(tmp_path, None, masks=MaskOptions("masks/*/{stem}.png", names=NAMES))
    assert source.format == "ids" and (source.samples[0].values() == true_masks()["b"]).all()
    mask, image = tmp_path / "masks/siteA/7.png", tmp_path / "images/siteB/7.jpg"
    assert source.problems == [f"'{mask}' is left out, since '{image}' has a mask in its own folder"]


def test_an_image_of_which_one_class_may_be_another_images_is_not_imported_in_part(tmp_path):
    for folder in ("siteA", "siteB"):
        write_images(tmp_path / folder, "7")
    write_images(tmp_path / "siteA", "8")
    write_masks(tmp_path / "siteA" / "m", {"7-car": true_masks()["a"], "8-car": true_masks()["a"]})
    write_masks(tmp_path / "other" / "m", {"7-road": true_masks()["b"]})
    source = read_source(tmp_path, None, masks=MaskOptions("*/m/{stem}-{class}.png"))
    assert [sample.name for sample in source.samples] == ["siteA/8"]
    assert len(source.problems) == 1 and "7-road.png' fits" in source.problems[0]


WHITE = np.array([(0, 0, 0), (255, 255, 255)], np.uint8)
RED = np.array([(0, 0, 0), (255, 0, 0)], np.uint8)


def write_two(root, first, others):
    """Masks of two values: that of the first image by one table of values, those of the others by another one."""
    write_images(root / "images")
    truth = {name: (mask > 0).astype(np.uint8) for name, mask in true_masks().items()}
    write_masks(root / "masks", {name: (first if name == "a" else others)[mask] for name, mask in truth.items()})
    return truth


@pytest.mark.parametrize("kind", ["binary", None])
@pytest.mark.parametrize("names", [(), ("background", "nucleus")])
@pytest.mark.parametrize(("first", "others"), [(np.uint8([0, 255]), WHITE), (WHITE, np.uint8([0, 255])), (RED, np.uint8([0, 0]))])
def test_masks_of_two_values_are_read_alike_in_grayscale_and_in_color(tmp_path, imported, kind, names, first, others):
    truth = write_two(tmp_path / "set", first, others)
    result = imported(tmp_path / "set", kind, masks=MaskOptions(names=names))
    assert result.format == "binary" and result.names == (names or ("background", "foreground")) and not result.problems
    assert (result.masks["a"] == truth["a"]).all()
    assert all((result.masks[name] == truth[name] * bool(others.any())).all() for name in "bc")


@pytest.mark.parametrize("kind", ["binary", None])
@pytest.mark.parametrize("mode", ["1", "P"])
@pytest.mark.parametrize("first", [np.uint8([0, 255]), WHITE])
@pytest.mark.parametrize("broken", [False, True])
def test_masks_of_one_bit_or_black_and_white_palette_are_read_as_those_of_gray_values(
    tmp_path, imported, kind, mode, first, broken
):
    truth = write_two(tmp_path / "set", first, np.uint8([0, 255]))
    for name in "bc":
        image = Image.fromarray(truth[name] * 255)
        if mode == "P":
            image = Image.fromarray(truth[name])
            image.putpalette([0, 0, 0, 255, 255, 255])
        image.convert(mode).save(tmp_path / "set" / "masks" / f"{name}.png")
    if broken:
        (tmp_path / "set" / "masks" / "c.png").write_bytes(b"broken")
    result = imported(tmp_path / "set", kind)
    assert result.format == "binary" and len(result.problems) == broken
    assert all((result.masks[name] == truth[name]).all() for name in ("ab" if broken else "abc"))


def test_ids_beside_an_indexed_image_with_a_gray_palette_stay_ids(tmp_path, imported):
    truth = true_masks()
    write_images(tmp_path / "set" / "images")
    write_masks(tmp_path / "set" / "masks", truth)
    image = Image.fromarray((truth["b"] > 0).astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "set" / "masks" / "b.png")
    result = imported(tmp_path / "set", None)
    assert result.format == "ids" and (result.masks["b"] == (truth["b"] > 0)).all() and (result.masks["a"] == truth["a"]).all()


def test_a_table_of_grays_is_of_grayscale_and_of_color_alike(tmp_path, imported):
    truth = write_two(tmp_path / "set", np.uint8([0, 255]), WHITE)
    (tmp_path / "set" / "colors.txt").write_text("0 0 0 background\n255 255 255 nucleus\n")
    result = imported(tmp_path / "set")
    assert result.names == ("background", "nucleus") and not result.problems
    assert all((result.masks[name] == mask).all() for name, mask in truth.items())


@pytest.mark.parametrize("deep", [False, True])
def test_ids_are_read_alike_in_grayscale_and_in_color(tmp_path, imported, deep):
    write_images(tmp_path / "set" / "images")
    ids = np.array([0, 7, 900] if deep else [0, 7, 9], np.uint16)
    for name, mask in true_masks().items():
        file = tmp_path / "set" / "masks" / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        if name == "a":
            Image.fromarray(ids[mask]).save(file)
        elif deep:
            write_deep_png(file, ids[mask][..., None].repeat(3, 2))
        else:
            Image.fromarray(ids[mask].astype(np.uint8)).convert("RGB").save(file)
    result = imported(tmp_path / "set", masks=MaskOptions(names=NAMES))
    assert result.format == "ids" and not result.problems
    assert all((result.masks[name] == mask).all() for name, mask in true_masks().items())


@pytest.mark.parametrize("table", [True, False])
def test_colors_are_read_alike_of_indexed_images_of_rgb_and_of_black_in_grayscale(tmp_path, imported, table):
    root, colors = tmp_path / "set", np.array([(0, 0, 0), (128, 0, 0), (128, 64, 7)], np.uint8)
    write_images(root / "images")
    (root / "masks").mkdir()
    for name, mask in true_masks().items():
        image = Image.fromarray(mask)
        if name == "a":
            image.putpalette(colors.tobytes())
        (Image.fromarray(colors[mask]) if name == "b" else image).save(root / "masks" / f"{name}.png")
    if table:
        (root / "colors.txt").write_text("0 0 0 background\n128 0 0 color_800000\n128 64 7 color_804007\n")
    result = imported(root)
    assert result.format == "colors" and not result.problems
    names = np.array(["background", "color_800000", "color_804007"])
    assert set(result.names) == set(names) and all((result.named(n) == names[m]).all() for n, m in true_masks().items())
