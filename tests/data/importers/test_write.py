"""Classes as the user wants them, splits, overlaps, links and turned images."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.importers import write
from pspnet_zoo.data.importers.values import MaskOptions
from pspnet_zoo.data.importers.write import WriteOptions, assign_splits
from pspnet_zoo.data.layouts.classes import parse_classes, read_class_file
from pspnet_zoo.data.open import open_dataset

from .conftest import true_masks, write_images, write_masks
from .test_formats import coco, labelme, shape

LEFT, RIGHT = [(0, 0), (40, 0), (40, 48), (0, 48)], [(20, 0), (64, 0), (64, 48), (20, 48)]
SMALL = [(25, 10), (30, 10), (30, 20), (25, 20)]


@pytest.fixture
def overlapping(tmp_path):
    """A cat, a dog over half of it, and a small cow over both, in the order of the file."""
    write_images(tmp_path / "set", "a")
    shapes = [shape("cow", SMALL), shape("cat", LEFT), shape("dog", RIGHT)]
    (tmp_path / "set" / "a.json").write_text(labelme("a", shapes))
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("priority", "counts", "lost"),
    [
        ("last", {"cow": 0, "cat": 960, "dog": 2112}, {"cow": 50, "cat": 960}),
        ("first", {"cow": 50, "cat": 1870, "dog": 1152}, {"cat": 50, "dog": 910}),
        ("smallest", {"cow": 50, "cat": 1870, "dog": 1152}, {"cat": 50, "dog": 910}),
        ("dog,cow", {"cow": 0, "cat": 960, "dog": 2112}, {"cow": 50, "cat": 910}),
        ("cow, dog", {"cow": 50, "cat": 960, "dog": 2062}, {"cat": 960, "dog": 50}),
    ],
)
def test_the_priority_decides_overlaps_and_what_is_lost_is_counted(overlapping, imported, priority, counts, lost):
    result = imported(overlapping, priority=priority)
    names = result.named("a")
    assert {name: int((names == name).sum()) for name in counts} == counts
    # a pixel can be covered more than once, each time by another class
    assert set(result.written.lost) == set(lost) and all(result.written.lost[n] >= lost[n] for n in lost)


def test_a_priority_of_unknown_classes_is_refused(overlapping, imported):
    with pytest.raises(
        ValueError, match="--priority has 'horse'; it can be last, first, smallest, or classes: background, cat, cow, dog"
    ):
        imported(overlapping, priority="horse")


# --- classes


def classes(**values):
    return parse_classes({"names": ["nothing", "animal", "dog"], **values})


def test_classes_are_merged_renamed_ignored_and_dropped(overlapping, imported):
    chosen = classes(mapping={"animal": ["cat"]}, drop=["cow"], background="nothing")
    assert set(np.unique(imported(overlapping, chosen=chosen).named("a"))) == {"animal", "dog"}


def test_ignored_and_dropped_objects_differ_in_what_is_below(overlapping, tmp_path, imported):
    chosen = classes(mapping={"animal": ["cat"]}, ignore=["dog's"], drop=["dog"][:0], background="nothing")
    with pytest.raises(ValueError, match="The classes do not mention 'cow' of the source"):
        imported(overlapping, chosen=chosen)
    names = imported(overlapping, chosen=classes(mapping={"animal": ["cat"]}, ignore=["cow"]), priority="first").named("a")
    assert (names[10:20, 25:30] == "-").all() and (names == "-").sum() == 50


def test_ids_of_masks_are_mapped_by_number_or_name(tmp_path, imported):
    write_images(tmp_path / "set" / "images")
    write_masks(tmp_path / "set" / "masks", {n: np.uint8([0, 7, 9])[m] for n, m in true_masks().items()})
    chosen = classes(mapping={"animal": [7], "dog": ["class_9"]}, ignore=[0])
    result = imported(tmp_path / "set", chosen=chosen)
    assert all((result.named(n) == np.array(["-", "animal", "dog"])[m]).all() for n, m in true_masks().items())


def test_the_background_is_named_or_ignored(overlapping, tmp_path, imported):
    (overlapping / "a.json").write_text(labelme("a", [shape("cow", SMALL)]))
    assert imported(overlapping, background="grass").names == ("grass", "cow")
    os.rename(tmp_path / "imported", tmp_path / "before")
    with pytest.raises(ValueError, match=r"There are 1 classes \(cow\); there can be 2 to 255. Keep the background as one"):
        imported(overlapping, ignore_undrawn=True)
    (overlapping / "a.json").write_text(labelme("a", [shape("cow", SMALL), shape("cat", [(0, 0), (1, 0), (1, 1)])]))
    result = imported(overlapping, ignore_undrawn=True)
    assert result.names == ("cat", "cow") and (result.named("a") == "cow").sum() == 50 and (result.named("a") == "-").sum() > 3000


def test_a_name_for_what_is_ignored_is_refused(overlapping, imported):
    with pytest.raises(ValueError, match="--background names what nobody drew, and --ignore-undrawn ignores it; leave one of them"):
        imported(overlapping, background="grass", ignore_undrawn=True)


@pytest.mark.parametrize("options", [{"background": "grass"}, {"ignore_undrawn": True}])
def test_options_for_what_nobody_drew_are_refused_where_every_pixel_has_a_class(tmp_path, imported, options):
    write_images(tmp_path / "set" / "images")
    write_masks(tmp_path / "set" / "masks", true_masks())
    with pytest.raises(ValueError, match="is for what nobody drew, and every pixel of the source has a class: class_0, class_1"):
        imported(tmp_path / "set", **options)


def test_a_category_with_the_id_255_is_no_ignored_one(tmp_path, imported):
    write_images(tmp_path / "set", "a")
    drawn = [{"image_id": 5, "category_id": 255, "segmentation": [[10, 10, 20, 10, 20, 20, 10, 20]]}]
    (tmp_path / "set" / "x.json").write_text(json.dumps(coco("a", drawn, [(255, "dog")])))
    names = imported(tmp_path / "set", chosen=classes(background="nothing")).named("a")
    assert (names == "dog").sum() == 100 and (names == "nothing").sum() == 48 * 64 - 100


def test_255_in_masks_of_a_dataset_is_ignored_and_cannot_become_a_class():
    assert classes().ids() == {0: 0, 1: 1, 2: 2, 255: 255}
    for values in ({"mapping": {"animal": [1, 255]}}, {"drop": [255]}):
        with pytest.raises(ValueError, match=r'"mapping" or "drop" has 255, which is ignored in the masks of a dataset'):
            classes(**values).ids()


def test_ids_above_255_in_the_file_of_classes_are_of_no_mask_of_a_dataset(tmp_path):
    """An import of masks of 16 bits needs them."""
    write_images(tmp_path / "train" / "images", "a")
    write_masks(tmp_path / "train" / "masks", {"a": np.ones((48, 64), np.uint8)})
    values = {"names": ["nothing", "animal"], "mapping": {"nothing": [300], "animal": [1]}, "drop": [1000]}
    (tmp_path / "classes.json").write_text(json.dumps(values))
    assert (open_dataset("folder", tmp_path, "train")[0][1] == 1).all()


def test_one_file_of_classes_serves_import_and_training(tmp_path):
    """Masks of a folder keep their ids; "mapping", several ignored ids and "drop" apply when they are read."""
    write_images(tmp_path / "train" / "images", "a")
    write_masks(tmp_path / "train" / "masks", {"a": np.arange(48, dtype=np.uint8).repeat(64).reshape(48, 64) % 6})
    values = {"names": ["nothing", "animal"], "mapping": {"nothing": [0], "animal": [1, 2]}, "ignore": [3, 4], "drop": [5]}
    (tmp_path / "classes.json").write_text(json.dumps({**values, "background": "nothing"}))
    dataset = open_dataset("folder", tmp_path, "train")
    assert dataset[0][1][:6, 0].tolist() == [0, 1, 1, 255, 255, 0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mapping": {"cow": ["cat"]}}, "has 'cow'; \"names\" has nothing, animal, dog"),
        ({"mapping": {"animal": ["cat"]}, "ignore": ["cat"]}, "'cat' is there twice"),
        ({"mapping": {"animal": "cat"}}, "\"mapping\" is 'cat'; it must have names and ids"),
        ({"mapping": ["cat"]}, '"mapping" must be an object'),
        ({"background": 3}, '"background" is 3'),
        ({"background": "sky"}, "has 'sky'"),
        ({"drop": [-1]}, '"drop" is'),
        ({"ignore": ["dog"]}, "has 'dog', which \"names\" has too"),
    ],
)
def test_classes_that_contradict_themselves_are_refused(tmp_path, values, words):
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["nothing", "animal", "dog"], **values}))
    with pytest.raises(ValueError) as caught:
        read_class_file(tmp_path / "classes.json")
    assert words in str(caught.value) and "classes.json': " in str(caught.value)


# --- splits


NAMES = [f"film{i % 7}/frame{i:03}" for i in range(140)]


def test_groups_stay_together_and_parts_are_nearly_as_asked():
    splits, note = assign_splits(NAMES, [None] * 140, WriteOptions(fractions=(0.7, 0.3), group_by=r"film\d+"))
    assert all(len({s for n, s in zip(NAMES, splits, strict=True) if n.startswith(f"film{i}/")}) == 1 for i in range(7))
    assert splits.count("val") == 40 and "7 groups of them whole" in note
    assert splits == assign_splits(NAMES, [None] * 140, WriteOptions(fractions=(0.7, 0.3), group_by="(film.)/"))[0]


def test_without_groups_the_parts_are_exact_and_always_the_same():
    splits, _ = assign_splits(NAMES, [None] * 140, WriteOptions())
    assert splits.count("val") == 28 and splits == assign_splits(NAMES, [None] * 140, WriteOptions(fractions=(0.8, 0.2)))[0]
    assert sorted(assign_splits(["a", "b"], [None] * 2, WriteOptions())[0]) == ["train", "val"]
    assert assign_splits(["a"], [None], WriteOptions())[0] == ["train"]


def test_the_sources_splits_are_kept_unless_others_are_asked_for():
    own = ["val", "test", None]
    assert assign_splits(["a", "b", "c"], own, WriteOptions())[0] == ["val", "test", "train"]
    assert set(assign_splits(["a", "b", "c"], own, WriteOptions(fractions=(0.6, 0.4)))[0]) == {"train", "val"}
    assert assign_splits(["a", "x/b", "c"], own, WriteOptions(lists={"train": ["b"], "val": ["a"]}))[0] == ["val", "train", None]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fractions": (0.8, 0.3)}, "--split is 0.8 0.3; it must be two parts of 1"),
        ({"fractions": (1.0, 0.0)}, "--split is"),
        ({"group_by": "patient"}, "--group-by 'patient' does not match the name 'film0/frame000'"),
        ({"folds": 1}, "--folds is 1"),
        ({"folds": 8, "group_by": "film."}, "--folds is 8; 7 images or groups can have 2 to 7"),
        ({"folds": 5, "lists": {"train": NAMES}}, "--lists and --folds both say which images are for validation; leave one out"),
        ({"fractions": (0.8, 0.2), "lists": {"train": NAMES}}, "--lists and --split both say"),
        ({"folds": 5, "fractions": (0.8, 0.2)}, "--folds and --split both say"),
        (
            {"group_by": "film.", "lists": {"train": NAMES}},
            "--group-by is for splits by chance, and --lists states them; leave it out",
        ),
    ],
)
def test_splits_that_cannot_be_made_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        assign_splits(NAMES, [None] * 140, WriteOptions(**options))


def test_groups_are_refused_where_the_source_has_splits_of_its_own():
    with pytest.raises(ValueError, match="--group-by is for splits by chance, and the source states them; .* by --split 0.8 0.2"):
        assign_splits(NAMES, ["train"] * 140, WriteOptions(group_by="film."))
    assign_splits(NAMES, ["train"] * 140, WriteOptions(group_by="film.", fractions=(0.7, 0.3)))


def test_folds_are_datasets_that_share_their_files(tmp_path, imported):
    write_images(tmp_path / "set" / "images", "abcdefg")
    write_masks(tmp_path / "set" / "masks", {n: np.eye(48, 64, dtype=np.uint8) for n in "abcdefg"})
    imported(tmp_path / "set", folds=3)
    seen = []
    for fold in range(1, 4):
        root = tmp_path / "imported" / f"fold_{fold}"
        train, val = (open_dataset("folder", root, split) for split in ("train", "val"))
        assert {p.stem for p in train.images}.isdisjoint(p.stem for p in val.images) and len(train) + len(val) == 7
        seen += [p.stem for p in val.images]
    assert sorted(seen) == list("abcdefg")
    assert next(iter((tmp_path / "imported").rglob("a.jpg"))).stat().st_nlink == 3


# --- files


def test_links_share_the_source_and_copies_do_not(tmp_path, imported):
    write_images(tmp_path / "set" / "images", "ab")
    write_masks(tmp_path / "set" / "masks", {n: np.eye(48, 64, dtype=np.uint8) for n in "ab"})
    imported(tmp_path / "set", link=True)
    assert (tmp_path / "set" / "images" / "a.jpg").stat().st_nlink == 2
    os.rename(tmp_path / "imported", tmp_path / "before")
    imported(tmp_path / "set")
    assert (tmp_path / "set" / "images" / "a.jpg").stat().st_nlink == 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("turned_labels", [True, False])
def test_labels_of_turned_images_are_turned_with_them(tmp_path, imported, orientation, turned_labels):
    """Tools write the size and coordinates of an image as it is stored, or as its EXIF turns it."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[2:6, 3:20] = 255
    (tmp_path / "set").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "set" / "a.png", exif=exif)
    if turned_labels and orientation not in (5, 6, 7, 8):
        pytest.skip("the sizes are the same, and labels are taken to be of the turned image")
    height, width, square = 20, 30, [(3, 2), (20, 2), (20, 6), (3, 6)]
    if orientation not in (1, 5, 6, 7, 8) or turned_labels:
        from PIL import ImageOps

        with Image.open(tmp_path / "set" / "a.png") as image:
            shown = np.array(ImageOps.exif_transpose(image))[..., 0] > 0
        (height, width), (rows, columns) = shown.shape, np.nonzero(shown)
        left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
        square = [(int(x), int(y)) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]
    text = labelme("a", [shape("cat", square)], imageHeight=height, imageWidth=width, imagePath="a.png")
    (tmp_path / "set" / "a.json").write_text(text)
    imported(tmp_path / "set")
    image, mask = open_dataset("folder", tmp_path / "imported", "train")[0]
    assert ((image[0] > 0) == (mask == 1)).all()


def test_equal_names_in_several_folders_get_those_of_their_folders(tmp_path, imported):
    for folder in ("one", "two"):
        write_images(tmp_path / "set" / "images" / folder, "a")
        write_masks(tmp_path / "set" / "masks" / folder, {"a": np.eye(48, 64, dtype=np.uint8)})
    assert set(imported(tmp_path / "set", masks=MaskOptions(names=("b", "f"))).masks) == {"one_a", "two_a"}


@pytest.fixture
def three_cameras(tmp_path):
    """Images whose paths become one name where "/" becomes "_"."""
    names = ("cam1/7", "cam2/7", "cam1_7")
    for i, name in enumerate(names):
        for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
            file = tmp_path / "set" / kind / f"{name}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((48, 64, 3), 50 * i, np.uint8) if kind == "images" else np.eye(48, 64, dtype=np.uint8)
            Image.fromarray(pixels).save(file)
    return {name: tmp_path / "set" / "images" / f"{name}.jpg" for name in names}


def test_names_that_would_become_one_stay_apart_in_all_folds(tmp_path, imported, three_cameras):
    before = {name: file.read_bytes() for name, file in three_cameras.items()}
    result = imported(tmp_path / "set", folds=3, link=True)
    assert not result.problems and {name: file.read_bytes() for name, file in three_cameras.items()} == before
    for fold in range(1, 4):
        files = [p.read_bytes() for p in (tmp_path / "imported" / f"fold_{fold}").glob("*/images/*")]
        assert sorted(files) == sorted(before.values())


def test_a_fold_is_never_copied_into_a_linked_image_of_the_source(tmp_path, imported, three_cameras, monkeypatch):
    before = [file.read_bytes() for file in three_cameras.values()]
    monkeypatch.setattr(write, "_short_names", lambda names: ["same"] * len(names))
    with pytest.raises(FileExistsError):
        imported(tmp_path / "set", folds=3, link=True)
    assert [file.read_bytes() for file in three_cameras.values()] == before
