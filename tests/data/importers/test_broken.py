"""Broken sources: what is wrong is named and counted, the rest is imported, and nothing is half written."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from pspnet_zoo.data.importers import regions, write
from pspnet_zoo.data.importers.recognise import read_source
from pspnet_zoo.data.importers.sample import Object, SourceError
from pspnet_zoo.data.importers.values import MaskOptions
from pspnet_zoo.data.importers.write import resolve_classes

from .conftest import write_images, write_masks
from .test_formats import coco, cvat, cvat_image, labelme, shape, studio_task


def test_a_ring_of_very_many_points_is_filled_and_what_was_not_compared_is_said(monkeypatch):
    monkeypatch.setattr(regions, "_MOST_COMPARED", 3)
    monkeypatch.setattr(regions, "crosses_itself", None)  # of 500 000 points it would take hours and gigabytes
    ring = np.array([(0, 0), (4, 0), (4, 4), (0, 4)], np.float64)
    _, pixels, doubts = regions.draw(Object(None, "it", (ring,)), 8, 8)
    assert pixels.all() and doubts == ["it has 4 points, too many to tell whether it crosses itself; it is filled as if it did not"]


def test_names_that_unfold_to_billions_are_refused(tmp_path):
    write_images(tmp_path / "images", ["a"])
    lists = "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    (tmp_path / "data.yaml").write_text(f"a: &a [x, x]\n{lists}names: [*i]\n")
    with pytest.raises(SourceError, match="data.yaml': the name of class 0 is a list; give a text"):
        read_source(tmp_path, "yolo")


SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]


def annotated(segmentation, image=15, category=3, **more):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **more}


def break_coco(values, kind):
    """The words of the message, and whether image "b" is left out."""
    broken, b = values["annotations"], values["images"][1]
    match kind:
        case "missing image":
            b["file_name"] = "nowhere.jpg"
            return "No image 'nowhere.jpg'", True
        case "outside":
            broken.append(annotated([[100, 10, 120, 10, 120, 20]]))
            return "annotation 3 lies outside of its image of 64x48", False
        case "reaches out":
            broken.append(annotated([[50, 10, 80, 10, 80, 20]]))
            return "annotation 3 reaches 16 pixels out of its image", False
        case "crosses itself":
            broken.append(annotated([[30, 30, 40, 40, 40, 30, 30, 40]]))
            return "annotation 3 crosses itself", False
        case "two points":
            broken.append(annotated([[30, 30, 40, 40]]))
            return "annotation 3 has 2 points; a polygon has three or more", False
        case "unknown category":
            broken.append(annotated([SQUARE], category=99))
            return "annotation 3 is of category 99, which is not defined; its pixels are ignored", False
        case "run lengths of another size":
            broken.append(annotated({"size": [10, 10], "counts": [50, 50]}))
            return "annotation 3: the run lengths are of the size [10, 10]; the image has [48, 64]", False
        case "run lengths that do not add up":
            broken.append(annotated({"size": [48, 64], "counts": [50, 50]}))
            return "annotation 3: the run lengths are of 100 pixels; the image has 3,072", False
        case "run lengths that end early":
            broken.append(annotated({"size": [48, 64], "counts": "0o"}))
            return "annotation 3: the run lengths are not those of COCO", False
        case "duplicate names":
            b["file_name"] = "a.jpg"
            return "Two images have the name 'a'; the first is kept", True
        case "wrong size":
            b["width"] = 640
            return "The image 'b' is 64x48, and the size that the source states 640x48", True
        case "empty annotation":
            broken.append(annotated([]))
            return "annotation 3 is empty", False
        case "not a number":
            broken.append(annotated([[30, 30, float("nan"), 40, 50, 60]]))
            return "must be pairs of numbers", False
        case "words":
            broken.append(annotated([["a", "b", "c", "d", "e", "f"]]))
            return "must be pairs of numbers", False
        case "a list":
            broken.append([1, 2])
            return "annotation 3: ", False
        case "no image of this id":
            broken.append(annotated([SQUARE], image=77))
            return "1 annotations are of image 77, which is not listed", False
        case "damaged image":
            return "b.jpg", True
    raise AssertionError(kind)


KINDS = (
    *("missing image", "outside", "reaches out", "crosses itself", "two points", "unknown category", "duplicate names"),
    *("run lengths of another size", "run lengths that do not add up", "run lengths that end early", "wrong size"),
    *("empty annotation", "not a number", "words", "a list", "no image of this id", "damaged image"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_named_and_the_rest_imported(tmp_path, imported, kind):
    files = write_images(tmp_path / "set")
    values = coco("abc", [annotated([SQUARE], image=5), annotated([SQUARE], image=25), annotated([SQUARE])])
    words, left_out = break_coco(values, kind)
    if kind == "damaged image":
        (tmp_path / "set" / "b.jpg").write_bytes(files["b"][:200])
    (tmp_path / "set" / "x.json").write_text(json.dumps(values))
    result = imported(tmp_path / "set" / "x.json")
    assert len(result.problems) == 1 and words in result.problems[0] and "\n" not in result.problems[0]
    assert set(result.masks) == {"a", "c"} | (set() if left_out else {"b"})
    for name in result.masks:
        expected = "-" if kind == "unknown category" and name == "b" else "cat"
        assert (result.named(name)[10:20, 10:20] == expected).all()


def test_half_a_json_is_named_where_others_are_whole(tmp_path, imported):
    write_images(tmp_path / "set")
    for name in "abc":
        text = labelme(name, [shape("cat", [(1, 1), (9, 1), (9, 9)])])
        (tmp_path / "set" / f"{name}.json").write_text(text[: len(text) // 2] if name == "a" else text)
    result = imported(tmp_path / "set")
    assert len(result.problems) == 1 and "a.json' is not JSON" in result.problems[0] and set(result.masks) == {"b", "c"}


@pytest.mark.parametrize(
    "text",
    [
        *('{"images": [', "[" * 100_000, "{}", "[]", "3", '"a"', '{"shapes": 3}', '[{"data": 3, "annotations": 3}]'),
        '{"images": 3, "annotations": [], "categories": []}',
        '{"images": [], "annotations": 3, "categories": []}',
        '{"images": [], "annotations": [], "categories": 0}',
        '{"images": [3], "annotations": [], "categories": [{"id": 1, "name": 3}]}',
    ],
)
def test_a_json_of_another_shape_is_one_line_and_writes_nothing(tmp_path, imported, text):
    write_images(tmp_path / "set")
    (tmp_path / "set" / "x.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        imported(tmp_path / "set" / "x.json")
    assert "\n" not in str(caught.value) and [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "..\\secret.jpg", "C:\\secret.jpg", "link.jpg", "a\x1b.jpg"]
)
def test_no_path_leads_out_of_the_source(tmp_path, imported, name):
    write_images(tmp_path, ["secret"])
    write_images(tmp_path / "set", "a")
    (tmp_path / "set" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    values = coco("ab", [])
    values["images"][1]["file_name"] = name
    (tmp_path / "set" / "x.json").write_text(json.dumps(values))
    result = imported(tmp_path / "set" / "x.json")
    assert set(result.images) == {"a"} and len(result.problems) == 1 and "out of" in result.problems[0]


def test_a_path_that_goes_up_within_the_source_is_followed(tmp_path, imported):
    """As labelme writes it where its files have a folder of their own."""
    files = write_images(tmp_path / "set" / "images", "a")
    (tmp_path / "set" / "drawn").mkdir()
    for name, path in (("a", "../images/a.jpg"), ("b", "../../images/a.jpg")):
        text = labelme("a", [shape("cat", [(1, 1), (9, 1), (9, 9)])], imagePath=path)
        (tmp_path / "set" / "drawn" / f"{name}.json").write_text(text)
    result = imported(tmp_path / "set")
    assert result.images == files and len(result.problems) == 1 and "leads out of the source" in result.problems[0]


@pytest.mark.parametrize(
    ("source", "images"), [("train/../c", None), ("c/../c/x.json", None), ("c", "train/../c"), ("train", "train/../c")]
)
def test_a_source_whose_path_goes_up_is_read(tmp_path, imported, monkeypatch, source, images):
    files = write_images(tmp_path / "c", "a")
    for folder in ("train", "c"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "x.json").write_text(json.dumps(coco("a", [annotated([SQUARE], image=5)])))
    monkeypatch.chdir(tmp_path)
    result = imported(Path(source), images=images and Path(images))
    assert result.images == files and not result.problems


def test_labels_whose_images_are_all_elsewhere_name_the_option(tmp_path, imported):
    """As those of `predict --format labelme` are."""
    files = write_images(tmp_path / "photos", "a")
    (tmp_path / "drafts").mkdir()
    (tmp_path / "drafts" / "a.json").write_text(labelme("a", [shape("cat", [(1, 1), (9, 1), (9, 9)])], imagePath="../photos/a.jpg"))
    with pytest.raises(SourceError, match="leads out of the source.* If its images are in another folder, name that by --images"):
        imported(tmp_path / "drafts")
    assert imported(tmp_path / "drafts", images=tmp_path / "photos").images == files


def test_a_name_that_is_too_long_is_the_problem_of_its_image(tmp_path, imported):
    files = write_images(tmp_path / "set", "a")
    for name, path in (("a", "a.jpg"), ("b", "x" * 300)):
        (tmp_path / "set" / f"{name}.json").write_text(labelme("a", [shape("cat", [(1, 1), (9, 1), (9, 9)])], imagePath=path))
    result = imported(tmp_path / "set")
    assert result.images == files and len(result.problems) == 1 and "xxx" in result.problems[0]


def test_links_among_pairs_are_refused(tmp_path, imported):
    write_images(tmp_path, ["secret"])
    write_images(tmp_path / "set" / "images", "ac")
    (tmp_path / "set" / "images" / "b.jpg").symlink_to(tmp_path / "secret.jpg")
    write_masks(tmp_path / "set" / "masks", {n: np.eye(48, 64, dtype=np.uint8) for n in "abc"})
    (tmp_path / "set" / "masks" / "c.png").rename(tmp_path / "c.png")
    (tmp_path / "set" / "masks" / "c.png").symlink_to(tmp_path / "c.png")
    result = imported(tmp_path / "set")
    assert set(result.images) == {"a"} and len(result.problems) == 2 and all("a link that leads out" in p for p in result.problems)


@pytest.mark.parametrize("broken", ["link", "pipe"])
def test_annotations_that_are_no_file_are_a_problem_and_not_waited_for(tmp_path, imported, broken):
    write_images(tmp_path / "set")
    for name in "ab":
        (tmp_path / "set" / f"{name}.json").write_text(labelme(name, [shape("cat", [(1, 1), (9, 1), (9, 9)])]))
    if broken == "link":
        (tmp_path / "set" / "x.json").symlink_to(tmp_path / "nowhere.json")
    else:
        os.mkfifo(tmp_path / "set" / "x.json")
    result = imported(tmp_path / "set")
    said = "is a link that leads out" if broken == "link" else "cannot be read: it is missing, or a broken link"
    assert len(result.problems) == 1 and f"x.json' {said}" in result.problems[0]
    assert set(result.masks) == {"a", "b"}


def test_a_size_of_400_digits_is_a_problem_of_its_image(tmp_path, imported):
    write_images(tmp_path / "set")
    values = coco("abc", [annotated([SQUARE], image=5)])
    values["images"][1]["height"] = 10**400
    (tmp_path / "set" / "x.json").write_text(json.dumps(values))
    result = imported(tmp_path / "set")
    assert len(result.problems) == 1 and "must be two positive numbers of pixels" in result.problems[0]
    assert set(result.masks) == {"a", "c"}


def test_postscript_among_masks_is_not_run(tmp_path, imported, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for it once
    write_images(tmp_path / "set" / "images", "ab")
    write_masks(tmp_path / "set" / "masks", {n: np.eye(48, 64, dtype=np.uint8) for n in "ab"})
    Image.new("L", (64, 48)).save(tmp_path / "set" / "masks" / "b.png", "EPS")
    result = imported(tmp_path / "set")
    assert len(result.problems) == 1 and "b.png' is not an image that can be read: it is PostScript" in result.problems[0]
    assert set(result.masks) == {"a"} and not (tmp_path / "run").exists()


def test_pipes_are_not_waited_for(tmp_path, imported):
    write_images(tmp_path / "set" / "images", "a")
    write_masks(tmp_path / "set" / "masks", {n: np.eye(48, 64, dtype=np.uint8) for n in "ab"})
    os.mkfifo(tmp_path / "set" / "images" / "b.jpg")
    assert set(imported(tmp_path / "set").images) == {"a"}


@pytest.mark.parametrize("kind", ["no mask", "no image", "wrong size", "fractions", "no mask at all"])
def test_faults_of_masks_are_named(tmp_path, imported, kind):
    write_images(tmp_path / "set" / "images")
    masks = {n: np.eye(48, 64, dtype=np.uint8) for n in "abc"}
    if kind == "no mask":
        del masks["b"]
    if kind == "no image":
        masks["d"] = masks["a"]
    if kind == "wrong size":
        masks["b"] = masks["b"][:20]
    if kind == "fractions":
        masks["b"] = masks["b"] + np.float32(0.5)
        Image.fromarray(masks.pop("b")).save(tmp_path / "set" / "b.tif")
        (tmp_path / "set" / "masks").mkdir()
        (tmp_path / "set" / "b.tif").rename(tmp_path / "set" / "masks" / "b.tif")
    write_masks(tmp_path / "set" / "masks", masks)
    if kind == "no mask at all":
        (tmp_path / "set" / "masks" / "b.png").write_bytes(b"no image")
    result = imported(tmp_path / "set")
    assert len(result.problems) == 1 and set(result.masks) == ({"a", "b", "c"} if kind == "no image" else {"a", "c"})


def test_colors_that_the_table_lacks_are_ignored_and_named(tmp_path, imported):
    write_images(tmp_path / "set" / "images", "a")
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:2], pixels[2:4] = (255, 0, 0), (9, 9, 8)
    write_masks(tmp_path / "set" / "masks", {"a": pixels})
    (tmp_path / "set" / "colors.txt").write_text("255 0 0 cat\n0 0 0 nothing\n")
    result = imported(tmp_path / "set")
    assert result.problems == ["The mask of 'a' holds (9, 9, 8), which no class has; these 128 pixels are ignored"]
    assert (result.named("a")[:2] == "cat").all() and (result.named("a")[2:4] == "-").all()


@pytest.mark.parametrize(
    "text", ["1 2 road", "300000 2 3 road", "255 0 0 cat\n255 0 0 dog", "255 0 0 cat\n1 0 0 cat", "1 2 3 a\x1b"]
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path, imported, text):
    write_images(tmp_path / "set" / "images", "a")
    write_masks(tmp_path / "set" / "masks", {"a": np.zeros((48, 64, 3), np.uint8)})
    (tmp_path / "table.txt").write_text(text)
    with pytest.raises(SourceError, match=r"table.txt'"):
        read_source(tmp_path / "set", None, masks=MaskOptions(colors=tmp_path / "table.txt"))


def test_smoothed_masks_are_refused_with_the_cure(tmp_path):
    write_images(tmp_path / "images", "a")
    write_masks(tmp_path / "masks", {"a": np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)})
    with pytest.raises(SourceError, match="state the true colors with --colors"):
        read_source(tmp_path, None)


def test_xml_with_entities_is_refused(tmp_path):
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb">]><annotations>&b;</annotations>'
    (tmp_path / "annotations.xml").write_text(bomb)
    with pytest.raises(SourceError, match="is not XML that is read here: EntitiesForbidden"):
        read_source(tmp_path, None)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ('<polygon label="cow" points="1,1;9,1;9,9"/>', "this label is not defined"),
        ('<polygon label="cat" points="1,1;9,1"/>', "has 2 points"),
        ('<polygon label="cat" points="1;2;3"/>', "must be pairs of numbers"),
        ('<polyline label="cat" points="1,1;9,1;9,9"/>', "has no area"),
        ('<mask label="cat" rle="1, 3" left="0" top="0" width="3" height="2"/>', "run lengths are of 4 pixels; the image has 6"),
        ('<mask label="cat" rle="6" left="62" top="0" width="3" height="2"/>', "is not inside of its image"),
        ('<box label="cat" xtl="one" ytl="1" xbr="3" ybr="4"/>', "'one' must be a number"),
    ],
)
def test_faults_of_cvat_are_named(tmp_path, imported, shapes, words):
    write_images(tmp_path / "set", "a")
    (tmp_path / "set" / "annotations.xml").write_text(cvat(cvat_image("a.jpg", shapes)))
    result = imported(tmp_path / "set")
    assert len(result.problems) == 1 and words in result.problems[0] and set(result.masks) == {"a"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("7 0.1 0.1 0.5 0.1 0.5 0.5", "is of class '7', which has no name"),
        ("0 0.1 0.1 0.5 0.1", "is a box"),
        ("0 0.1 0.1 0.5 0.1 0.5", "has 5 coordinates"),
        ("cat 0.1 0.1 0.5 0.1 0.5 0.5", "is of class 'cat'"),
        ("0 a b c d e f", "must be pairs of numbers"),
    ],
)
def test_faults_of_yolo_are_named(tmp_path, imported, line, words):
    write_images(tmp_path / "set" / "images", "ab")
    (tmp_path / "set" / "labels").mkdir()
    (tmp_path / "set" / "labels" / "a.txt").write_text(line)
    (tmp_path / "set" / "classes.txt").write_text("cat\n")
    result = imported(tmp_path / "set")
    assert len(result.problems) == 1 and words in result.problems[0] and set(result.masks) == {"a", "b"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"type": "brushlabels", "value": {"rle": [0, 0, 0, 4, 0], "brushlabels": ["cat"]}}, "the brush is of 1 pixels"),
        ({"type": "brushlabels", "value": {"rle": [0, 0, 48, 0, 0], "brushlabels": ["cat"]}}, "the brush ends early"),
        ({"type": "brushlabels", "value": {"rle": [0, 300], "brushlabels": ["cat"]}}, "something else than bytes"),
        ({"type": "keypointlabels", "value": {"keypointlabels": ["cat"]}}, "has no area"),
        ({"type": "polygonlabels", "value": {"points": 3, "polygonlabels": ["cat"]}}, '"points" is 3; it must be a list'),
        ({"type": "polygonlabels", "value": {"points": [], "polygonlabels": []}}, "the name of a class is None"),
    ],
)
def test_faults_of_label_studio_are_named(tmp_path, imported, value, words):
    sound = {"type": "rectanglelabels", "value": {"x": 0, "y": 0, "width": 9, "height": 9, "rectanglelabels": ["dog"]}}
    write_images(tmp_path / "set", "a")
    (tmp_path / "set" / "export.json").write_text(json.dumps([studio_task("a.jpg", [value, sound]), studio_task("b.jpg", [])]))
    result = imported(tmp_path / "set")
    assert len(result.problems) == 2 and words in " ".join(result.problems) and set(result.masks) == {"a"}


def test_arrays_of_python_objects_and_of_too_many_bytes_are_not_read(tmp_path, imported):
    np.savez(tmp_path / "a.npz", image=np.array([{}], object), mask=np.zeros((4, 4), np.uint8))
    with pytest.raises(SourceError, match="holds Python objects"):
        read_source(tmp_path, None)
    head = np.lib.format.header_data_from_array_1_0(np.zeros((4, 4), np.uint8)) | {"shape": (1 << 20, 1 << 20)}
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("image", "mask"):
            buffer = io.BytesIO()
            np.lib.format.write_array_header_1_0(buffer, head)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    with pytest.raises(SourceError, match="has more than 4,294,967,296 bytes"):
        read_source(tmp_path, None)


def write_array(file, image=None, mask=None):
    image = np.zeros((48, 64, 3), np.uint8) if image is None else image
    np.savez_compressed(file, image=image, mask=np.eye(48, 64, dtype=np.uint8) if mask is None else mask)


def test_damaged_arrays_are_problems_and_the_rest_is_imported(tmp_path, imported):
    write_array(tmp_path / "a.npz")
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    for name in ("data", "late", "method"):
        write_array(tmp_path / f"{name}.npz", noise, np.eye(200, dtype=np.uint8))
        data = bytearray((tmp_path / f"{name}.npz").read_bytes())
        if name != "method":  # inside of the compressed pixels, at once or behind what is read for the shape
            start = {"data": 2000, "late": 9000}[name]
            data[start : start + 300] = b"\xff" * 300
        else:  # a compression that nobody knows, in both of its places
            for head, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
                start = data.index(head)
                data[start + offset] = 77
        (tmp_path / f"{name}.npz").write_bytes(data)
    write_array(tmp_path / "scalar.npz", np.zeros((2, 48, 64, 3), np.uint8), np.uint8(3))
    write_array(tmp_path / "void.npz", mask=np.zeros((0, 64), np.uint8))
    result = imported(tmp_path)
    assert set(result.masks) == {"a"} and len(result.problems) == 5
    for name in ("data", "late", "method", "scalar", "void"):
        assert sum(f"{name}.npz" in problem for problem in result.problems) == 1


def test_an_interrupted_import_leaves_nothing(tmp_path, imported, monkeypatch):
    write_images(tmp_path / "set" / "images")
    write_masks(tmp_path / "set" / "masks", {n: np.eye(48, 64, dtype=np.uint8) for n in "abc"})
    calls = iter([None, None])

    def interrupted(path):
        if next(calls, "end") == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr(write, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        imported(tmp_path / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path, imported):
    write_images(tmp_path / "set" / "images")
    write_masks(tmp_path / "set" / "masks", {n: np.eye(48, 64, dtype=np.uint8) for n in "abc"})
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / "mine").write_text("")
    with pytest.raises(FileExistsError, match="is there already and not empty"):
        imported(tmp_path / "set")


def test_a_source_without_classes_says_its_first_problem(tmp_path):
    write_images(tmp_path, ["a"])
    (tmp_path / "a.json").write_text(labelme("a", [None]))
    with pytest.raises(ValueError, match="Keep the background as one. The first problem of the source: .*a.json"):
        resolve_classes(read_source(tmp_path, "labelme"), None, None, False)


def test_options_for_masks_are_refused_where_labels_are_outlines(tmp_path):
    write_images(tmp_path, ["a"])
    (tmp_path / "a.json").write_text(labelme("a", [shape("cow", [(1, 1), (30, 1), (30, 30)])]))
    with pytest.raises(ValueError, match="--names says nothing of the labels in .*, which are labelme; leave it out"):
        read_source(tmp_path, None, masks=MaskOptions(names=("cow",)))


@pytest.mark.parametrize(
    ("kind", "stated"),
    [
        *(("vectors", {option: "x"}) for option in ("colors", "names", "pattern")),
        *((kind, {option: "x"}) for kind in ("npz", "parquet") for option in ("pattern", "field", "images")),
        *((kind, {"field": "x"}) for kind in ("coco", "voc", "masks", "ids")),
    ],
)
def test_an_option_that_a_format_does_not_read_is_refused(tmp_path, kind, stated):
    images = tmp_path if stated.pop("images", None) else None
    with pytest.raises(ValueError, match=f"says nothing of the labels in .*, which are {kind}; leave it out"):
        read_source(tmp_path, kind, images=images, masks=MaskOptions(**stated))
