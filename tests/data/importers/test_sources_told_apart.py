"""Classes, images, splits and names that look alike and are not the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.importers.recognise import read_source
from pspnet_zoo.data.importers.sample import SourceError
from pspnet_zoo.data.importers.write import WriteOptions, assign_splits
from pspnet_zoo.data.layouts.classes import parse_classes
from pspnet_zoo.data.layouts.splits import read_lists

from .conftest import write_images
from .test_formats import coco, cvat, labelme, shape, studio_task

TRIANGLE = [(1, 1), (30, 1), (30, 30)]
SQUARE = [(10, 10), (20, 10), (20, 20), (10, 20)]
BESIDE = [(40, 10), (50, 10), (50, 20), (40, 20)]
RECTANGLE = {"type": "rectanglelabels", "value": {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["cat"]}}
WHOLE = {"size": [48, 64], "counts": [0, 48 * 64]}


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def found_in(root: Path, **options) -> dict[str, str | None]:
    """The path of each image below the source, and its split."""
    return {s.image.relative_to(root).as_posix(): s.split for s in read_source(root, None, **options).samples}


# --- classes


def test_numbers_in_the_file_of_classes_are_names_of_labels_where_these_have_no_ids(tmp_path, imported):
    write_images(tmp_path / "set", "a")
    shapes = [shape("2", TRIANGLE), shape("0", SQUARE), shape("1", BESIDE)]
    write(tmp_path / "set" / "a.json", labelme("a", shapes))
    values = {"names": ["background", "building", "road"], "mapping": {"background": [0], "building": [1], "road": [2]}}
    names = imported(tmp_path / "set", chosen=parse_classes({**values, "background": "background"})).named("a")
    assert names[5, 25] == "road" and (names[10:20, 40:50] == "building").all() and (names[10:20, 10:20] == "background").all()


@pytest.mark.parametrize("kind", ["cvat", "labelstudio"])
def test_a_number_is_no_place_in_the_list_of_labels(tmp_path, imported, kind):
    write_images(tmp_path / "set", "a")
    chosen = parse_classes({"names": ["background", "vehicle"], "mapping": {"vehicle": ["car", 1]}})
    if kind == "cvat":
        write(tmp_path / "set" / "annotations.xml", cvat(cvat_image("a.jpg"), (("car", "#ff0000"), ("tree", "#0000ff"))))
    else:
        drawn = [{**RECTANGLE, "value": {**RECTANGLE["value"], "rectanglelabels": [label]}} for label in ("car", "tree")]
        write(tmp_path / "set" / "export.json", json.dumps([studio_task("a.jpg", drawn)]))
    with pytest.raises(ValueError, match=f"do not mention 'tree' of the source.*Labels of {kind} have no ids; write their names"):
        imported(tmp_path / "set", chosen=chosen)


def test_numbers_are_ids_of_coco(tmp_path, imported):
    write_images(tmp_path / "set", "a")
    drawn = [{"image_id": 5, "category_id": 17, "segmentation": [np.ravel(SQUARE).tolist()]}]
    write(tmp_path / "set" / "x.json", json.dumps(coco("a", drawn)))
    chosen = parse_classes({"names": ["other", "animal"], "mapping": {"other": [3], "animal": [17]}})
    assert (imported(tmp_path / "set", chosen=chosen).named("a") == "animal").sum() == 100


def test_a_background_that_somebody_drew_is_a_class_where_the_rest_is_ignored(tmp_path, imported):
    write_images(tmp_path / "set", "a")
    shapes = [shape("background", SQUARE), shape("cat", BESIDE), shape("dog", [(0, 40), (64, 40), (64, 48), (0, 48)])]
    write(tmp_path / "set" / "a.json", labelme("a", shapes))
    result = imported(tmp_path / "set", ignore_undrawn=True)
    names = result.named("a")
    assert result.names == ("background", "cat", "dog") and (names[10:20, 10:20] == "background").all()
    assert {name: int((names == name).sum()) for name in (*result.names, "-")} == {
        "background": 100,
        "cat": 100,
        "dog": 512,
        "-": 64 * 48 - 712,
    }


def test_a_background_that_is_only_defined_is_no_class_where_the_rest_is_ignored(tmp_path, imported):
    write_images(tmp_path / "set", "a")
    labels = (("background", "#000000"), ("car", "#ff0000"), ("tree", "#0000ff"))
    write(tmp_path / "set" / "annotations.xml", cvat(cvat_image("a.jpg"), labels))
    result = imported(tmp_path / "set", ignore_undrawn=True)
    assert result.names == ("car", "tree") and (result.named("a") == "-").sum() == 64 * 48 - 128


@pytest.mark.parametrize("priority", ["first", "last"])
def test_crowds_of_coco_are_below_single_objects_in_both_orders(tmp_path, imported, priority):
    write_images(tmp_path / "set", "a")
    square = [np.ravel(SQUARE).tolist()]
    annotations = [
        {"image_id": 5, "category_id": 17, "segmentation": WHOLE, "iscrowd": 1},
        {"image_id": 5, "category_id": 3, "segmentation": square},
        {"image_id": 5, "category_id": 3, "segmentation": WHOLE, "iscrowd": 1},
    ]
    write(tmp_path / "set" / "x.json", json.dumps(coco("a", annotations, [(3, "cat"), (17, "dog")])))
    names = imported(tmp_path / "set", priority=priority).named("a")
    assert (names[10:20, 10:20] == "cat").all()
    assert (names == ("dog" if priority == "first" else "cat")).sum() == 64 * 48 - 100 * (priority == "first")


# --- images


def cvat_image(name: str, subset: str | None = None) -> str:
    drawn = '<box label="car" xtl="1" ytl="1" xbr="9" ybr="9"/><box label="tree" xtl="11" ytl="1" xbr="19" ybr="9"/>'
    stated = "" if subset is None else f'subset="{subset}"'
    return f'<image id="0" name="{name}" {stated} width="64" height="48">{drawn}</image>'


def write_studio(file: Path, *addresses: str) -> None:
    tasks = [{**studio_task("", [RECTANGLE]), "data": {"image": address}} for address in addresses]
    write(file, json.dumps(tasks))


def test_labels_are_not_drawn_onto_the_image_of_the_same_name_in_another_folder(tmp_path):
    write_images(tmp_path / "siteA", ["001", "002"])
    write(tmp_path / "x.json", json.dumps(coco(["siteA/002", "siteB/001"], [])))
    source = read_source(tmp_path, None)
    assert [s.image for s in source.samples] == [tmp_path / "siteA" / "002.jpg"]
    assert len(source.problems) == 1 and "siteA/001.jpg' has this name in another folder, which --images can" in source.problems[0]


@pytest.mark.parametrize(
    ("stated", "there"),
    [
        ("a.jpg", "images/a.jpg"),
        ("a.jpg", "siteA/images/a.jpg"),
        ("siteA/a.jpg", "siteA/images/a.jpg"),
        ("siteA/a.jpg", "images/a.jpg"),
        ("images/a.jpg", "photos/a.jpg"),
        ("elsewhere\\siteA\\a.jpg", "siteA/a.jpg"),
        ("images/val/a.jpg", "Val/Images/a.jpg"),
        ("siteB/../siteA/a.jpg", "images/siteA/a.jpg"),
    ],
)
def test_an_image_is_found_where_one_path_is_the_end_of_the_other(tmp_path, stated, there):
    write_images((tmp_path / there).parent, ["a"])
    values = coco("a", [])
    values["images"][0]["file_name"] = stated
    write(tmp_path / "x.json", json.dumps(values))
    assert list(found_in(tmp_path)) == [there]


def test_of_several_images_that_fit_the_one_whose_path_fits_best_is_taken(tmp_path):
    write_images(tmp_path, "a")
    write_images(tmp_path / "old" / "siteB", "a")
    write(tmp_path / "x.json", json.dumps(coco(["siteB/a"], [])))
    assert list(found_in(tmp_path)) == ["old/siteB/a.jpg"]


def test_images_of_label_studio_are_told_apart_by_their_folders(tmp_path):
    for folder in ("", "siteA", "siteB", "siteC"):
        write_images(tmp_path / folder, ["001"])
    addresses = [
        "/data/local-files/?d=siteB/001.jpg",
        "s3://bucket/siteA/001.jpg",
        "/data/local-files/?d=D:/all/siteC/0a1b2c3d-001.jpg",
    ]
    write_studio(tmp_path / "export.json", *addresses)
    assert list(found_in(tmp_path)) == ["siteB/001.jpg", "siteA/001.jpg", "siteC/001.jpg"]


def test_the_folder_of_an_upload_to_label_studio_says_nothing(tmp_path):
    write_images(tmp_path / "siteA", ["001"])
    write_images(tmp_path / "siteB", ["002"])
    write_studio(
        tmp_path / "export.json", "/data/upload/7/0a1b2c3d-001.jpg", "/data/upload/002.jpg", "/data/local-files/?d=siteA/002.jpg"
    )
    assert list(found_in(tmp_path)) == ["siteA/001.jpg", "siteB/002.jpg"]


def test_a_file_of_one_split_is_not_drawn_onto_an_image_of_another(tmp_path):
    write_images(tmp_path / "train", "ab")
    for folder in ("train", "val"):
        write(tmp_path / folder / "a.json", labelme("a", [shape("cat", TRIANGLE)]))
    source = read_source(tmp_path, None)
    assert [s.split for s in source.samples] == ["train"] and "No image 'a.jpg'" in source.problems[0]


@pytest.mark.parametrize("images", [False, True])
def test_images_of_a_project_of_cvat_are_in_the_folders_of_their_subsets(tmp_path, images):
    subsets = ("Train", "Validation", "Holdout", "default")
    for subset in subsets:
        write_images(tmp_path / "images" / subset, ["0001"])
    elements = "".join(cvat_image("0001.jpg", subset) for subset in subsets)
    write(tmp_path / "annotations.xml", cvat(elements, (("car", "#ff0000"), ("tree", "#0000ff"))))
    found = found_in(tmp_path, images=tmp_path / "images" if images else None)
    assert found == {
        "images/Train/0001.jpg": "train",
        "images/Validation/0001.jpg": "val",
        "images/Holdout/0001.jpg": "Holdout",
        "images/default/0001.jpg": None,
    }


def test_the_default_subsets_of_cvat_are_no_splits(tmp_path, imported):
    write_images(tmp_path / "set" / "images", "abcd")
    elements = "".join(cvat_image(f"{name}.jpg", "default_2" if name == "d" else "default") for name in "abcd")
    write(tmp_path / "set" / "annotations.xml", cvat(elements, (("car", "#ff0000"), ("tree", "#0000ff"))))
    assert set(imported(tmp_path / "set").splits.values()) == {"train", "val"}


def test_one_image_is_not_taken_for_two_names(tmp_path):
    write_images(tmp_path, "ab")
    for split, names in (("train", ["cam1/a", "cam1/b"]), ("val", ["cam2/a", "cam1/b"])):
        write(tmp_path / f"{split}.json", json.dumps(coco(names, [])))
    source = read_source(tmp_path, None)
    assert [(s.image.name, s.split) for s in source.samples] == [("a.jpg", "train"), ("b.jpg", "train"), ("b.jpg", "val")]
    taken = f"'{tmp_path}/a.jpg' is taken for 'cam1/a.jpg', not for 'cam2/a.jpg'"
    assert source.problems == [f"{taken}; add that image, or correct its name"]


@pytest.mark.parametrize("order", [("cam1/a", "a"), ("a", "cam1/a")])
def test_an_image_has_its_own_name_whichever_comes_first(tmp_path, order):
    write_images(tmp_path, "a")
    square = [{"image_id": 5, "category_id": 3, "segmentation": [np.ravel(SQUARE).tolist()]}]
    for split, name in zip(("train", "val"), order, strict=True):
        write(tmp_path / f"{split}.json", json.dumps(coco([name], square if name == "a" else [])))
    source = read_source(tmp_path, None)
    assert [s.split for s in source.samples] == ["val" if order[1] == "a" else "train"] and source.samples[0].objects
    assert source.problems == [
        f"'{tmp_path}/a.jpg' is taken for 'a.jpg', not for 'cam1/a.jpg'; add that image, or correct its name"
    ]


def test_one_image_is_not_taken_for_two_tasks_of_label_studio(tmp_path):
    write_images(tmp_path, ["001"])
    write_studio(tmp_path / "export.json", "s3://bucket/siteA/001.jpg", "s3://bucket/siteB/001.jpg")
    source = read_source(tmp_path, None)
    assert len(source.samples) == len(source.problems) == 1 and "not for 'siteb/001.jpg'" in source.problems[0]


@pytest.mark.parametrize("folder", ["", "images"])
def test_one_image_is_not_taken_for_two_subsets_of_cvat(tmp_path, folder):
    write_images(tmp_path / folder, ["0001"])
    elements = "".join(cvat_image("0001.jpg", subset) for subset in ("Train", "Validation"))
    write(tmp_path / "annotations.xml", cvat(elements, (("car", "#ff0000"), ("tree", "#0000ff"))))
    source = read_source(tmp_path, None)
    assert [s.split for s in source.samples] == ["train"]
    assert len(source.problems) == 1 and "is taken for 'train/0001.jpg', not for 'validation/0001.jpg'" in source.problems[0]


# --- splits


def test_parquet_files_in_folders_of_splits_have_these(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image = write_images(tmp_path / "photos", "a")["a"]
    Image.fromarray(np.eye(48, 64, dtype=np.uint8)).save(tmp_path / "a.png")
    for split in ("train", "validation"):
        (tmp_path / "set" / "default" / split).mkdir(parents=True)
        table = pa.table({"image": [image], "mask": [(tmp_path / "a.png").read_bytes()]})
        pq.write_table(table, tmp_path / "set" / "default" / split / "0000.parquet")
    assert [s.split for s in read_source(tmp_path / "set", None).samples] == ["train", "val"]


def test_any_folder_of_labelme_below_the_root_can_state_the_split(tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path / "test" / split / "images", "a")
        write(tmp_path / "test" / split / "labels" / "a.json", labelme("a", [shape("cat", TRIANGLE)]))
    assert found_in(tmp_path / "test") == {"train/images/a.jpg": "train", "val/images/a.jpg": "val"}


def test_the_folders_of_images_are_the_splits_of_one_coco_file(tmp_path, imported):
    for split in ("train", "val"):
        write_images(tmp_path / "set" / split, ["0001"])
    write(tmp_path / "set" / "x.json", json.dumps(coco(["train/0001", "val/0001"], [])))
    result = imported(tmp_path / "set")
    written = {p.relative_to(tmp_path / "imported").as_posix() for p in (tmp_path / "imported").rglob("*.jpg")}
    assert written == {"train/images/0001.jpg", "val/images/0001.jpg"} and not result.problems


def test_one_folder_of_images_is_no_split_of_one_coco_file(tmp_path):
    write_images(tmp_path / "val2017", "ab")
    write(tmp_path / "annotations" / "instances_val2017.json", json.dumps(coco("ab", [])))
    assert found_in(tmp_path) == {"val2017/a.jpg": None, "val2017/b.jpg": None}


def test_coco_files_beside_their_images_are_read_as_roboflow_writes_them(tmp_path):
    for split, names in (("train", "ab"), ("valid", "a"), ("test", "c")):
        write_images(tmp_path / split, names)
        write(tmp_path / split / "_annotations.coco.json", json.dumps(coco([*names, "missing"], [])))
    write_images(tmp_path / "test", ["missing"])
    source = read_source(tmp_path, None)
    found = {s.image.relative_to(tmp_path).as_posix(): s.split for s in source.samples}
    assert source.format == "coco" and len(source.problems) == 2 and all("No image 'missing.jpg'" in p for p in source.problems)
    assert found == {
        "train/a.jpg": "train",
        "train/b.jpg": "train",
        "valid/a.jpg": "val",
        "test/c.jpg": "test",
        "test/missing.jpg": "test",
    }


@pytest.mark.parametrize("options", [{"folds": 2}, {"fractions": (0.5, 0.5)}])
def test_images_of_two_splits_with_one_name_are_all_kept(tmp_path, imported, options):
    root, files = tmp_path / "set", []
    for i, split in enumerate(("train", "val")):
        files += write_images(root / "images" / split, ["0001", "0002"], (64, 48 + i)).values()
        for name in ("0001", "0002"):
            write(root / "labels" / split / f"{name}.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5")
    write(root / "data.yaml", "names: [cat, dog]")
    result = imported(root, **options)
    assert not result.problems and set(result.images) == {"train_0001", "train_0002", "val_0001", "val_0002"}
    folders = ("fold_1", "fold_2") if "folds" in options else ("",)
    for folder in folders:
        assert sorted(p.read_bytes() for p in (tmp_path / "imported" / folder).glob("*/images/*")) == sorted(files)


# --- lists


def test_a_name_in_two_lists_is_refused_and_both_are_named():
    lists = {"all": ["a", "b"], "train": ["a.jpg"], "val": ["b"]}
    with pytest.raises(ValueError, match="'a' is in the lists 'all' and 'train'; an image is of one split, so remove it from one"):
        assign_splits(["a", "b"], [None] * 2, WriteOptions(lists=lists))


def test_the_list_of_train_and_val_together_is_left_out():
    """As in Pascal VOC's ImageSets/Segmentation."""
    lists = {"train": ["a"], "trainval": ["a", "b"], "val": ["b"]}
    splits, note = assign_splits(["a", "b"], [None] * 2, WriteOptions(lists=lists))
    assert splits == ["train", "val"] and "the list 'trainval' is left out, since 'train' and 'val' are there" in note
    assert assign_splits(["a", "b"], [None] * 2, WriteOptions(lists={"trainval": ["a"], "val": ["b"]}))[0] == ["trainval", "val"]


def test_names_with_spaces_are_whole_in_lists_and_other_words_may_follow_a_name(tmp_path):
    write(tmp_path / "train.txt", "my photo.png\n\nb.png 1\n")
    write(tmp_path / "val.txt", "  my other photo\n")
    lists = read_lists(tmp_path)
    assert lists == {"train": ["my photo.png", "b.png 1"], "val": ["my other photo"]}
    names = ["my photo", "x/b", "my other photo", "my"]
    assert assign_splits(names, [None] * 4, WriteOptions(lists=lists))[0] == ["train", "train", "val", None]


def test_a_folder_without_lists_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No lists such as train.txt and val.txt in"):
        read_lists(tmp_path)


def test_a_path_that_leads_out_of_the_source_is_refused_for_label_studio(tmp_path):
    write_images(tmp_path, "a")
    write_studio(tmp_path / "export.json", "/data/local-files/?d=..\\a.jpg")
    with pytest.raises(SourceError, match="leads out of the source"):
        read_source(tmp_path, None)
