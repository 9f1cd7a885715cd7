"""Which mask or outlines an image gets where names, ids or lists leave it open, and which images have none."""

import json

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.importers.sample import SourceError

from .conftest import write_images, write_masks


def block(value: int) -> np.ndarray:
    mask = np.zeros((48, 64), np.uint8)
    mask[:20] = value
    return mask


def voc(root, lists, names="abc"):
    write_images(root / "JPEGImages", names)
    write_masks(root / "SegmentationClass", {name: block(1) for name in names})
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, text in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(text)
    return root


def test_a_list_that_is_called_as_a_folder_above_writes_nothing_outside(tmp_path, imported):
    source = voc(tmp_path / "voc", {"..": "a\nb\n", "first": "c\n"})
    result = imported(source, "voc")
    assert {*result.images} == {"c"} and {path.name for path in tmp_path.iterdir()} == {"voc", "imported"}
    assert sum("is in the list '..'" in problem for problem in result.problems) == 2


def test_an_image_in_two_lists_of_voc_is_of_the_first(tmp_path, imported):
    result = imported(voc(tmp_path / "voc", {"train": "a\nb\n", "val": "b\nc\n"}), "voc")
    assert result.splits == {"a": "train", "b": "train", "c": "val"}
    assert "'b' is in the lists 'train' and 'val'; it is imported as of the first" in result.problems


def test_a_name_in_a_list_of_voc_that_is_too_long_is_one_problem(tmp_path, imported):
    result = imported(voc(tmp_path / "voc", {"train": f"a\n{'x' * 300}\n", "val": "b\n", "test": f"{'y' * 300}\n"}), "voc")
    assert {*result.images} == {"a", "b"} and len(result.problems) == 1


def test_images_of_coco_with_one_id_are_named_and_not_imported(tmp_path, imported):
    write_images(tmp_path / "coco", "abc")
    images = [{"id": i, "file_name": f"{name}.jpg", "width": 64, "height": 48} for name, i in zip("abc", (1, 1, 2), strict=True)]
    outline = {"category_id": 1, "iscrowd": 0, "segmentation": [[4, 3, 30, 5, 22, 30]]}
    annotations = [{**outline, "id": number, "image_id": image} for number, image in enumerate((1, 1, 2))]
    values = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "coco" / "instances.json").write_text(json.dumps(values))
    result = imported(tmp_path / "coco", "coco")
    assert {*result.images} == {"c"}
    assert [problem.partition(": ")[2] for problem in result.problems] == ["2 images have the id 1; none of them is imported"] * 2


def test_a_mask_of_another_name_is_not_paired_where_others_are_by_name(tmp_path, imported):
    for split, image, mask in (("train", "a", "a"), ("val", "c", "d")):
        write_images(tmp_path / "data" / split / "images", image)
        write_masks(tmp_path / "data" / split / "masks", {mask: block(1)})
    write_images(tmp_path / "data" / "val" / "images", "b")
    write_masks(tmp_path / "data" / "val" / "masks", {"b": block(1)})
    assert {*imported(tmp_path / "data", "masks").images} == {"a", "b"}


def test_a_mask_is_of_the_image_of_its_whole_name(tmp_path, imported):
    write_images(tmp_path / "data" / "images", ["a", "a_seg", "b"])
    write_masks(tmp_path / "data" / "masks", {"a_seg": block(1), "b": block(1)})
    assert {*imported(tmp_path / "data", "masks").images} == {"a_seg", "b"}


def test_lines_of_lists_that_name_no_image_are_counted(tmp_path, imported):
    write_images(tmp_path / "data" / "images", "abc")
    write_masks(tmp_path / "data" / "masks", {name: block(1) for name in "abc"})
    result = imported(tmp_path / "data", "masks", lists={"train": ["a", "typo"], "val": ["b"]})
    assert any("1 images are in none; 1 lines name no image, such as 'typo'" in note for note in result.notes), result.notes


def test_a_blank_line_among_the_classes_of_yolo_is_refused(tmp_path, imported):
    write_images(tmp_path / "images", "ab")
    (tmp_path / "labels").mkdir()
    for name in "ab":
        (tmp_path / "labels" / f"{name}.txt").write_text("1 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "classes.txt").write_text("cat\n\ndog\n")
    with pytest.raises(SourceError, match=r"classes\.txt"):
        imported(tmp_path, "yolo")


def test_a_labelme_file_that_is_a_link_out_of_the_source_is_not_read(tmp_path, imported):
    write_images(tmp_path / "data", "ab")
    values = {"shapes": [{"label": "cat", "points": [[4, 3], [30, 5], [22, 30]], "shape_type": "polygon"}]}
    (tmp_path / "data" / "a.json").write_text(json.dumps({**values, "imagePath": "a.jpg"}))
    (tmp_path / "secret.json").write_text(json.dumps({**values, "imagePath": "b.jpg"}))
    (tmp_path / "data" / "b.json").symlink_to(tmp_path / "secret.json")
    result = imported(tmp_path / "data", "labelme")
    assert {*result.images} == {"a"} and "is a link that leads out" in result.problems[0]


def test_an_address_of_label_studio_that_is_none_is_one_problem(tmp_path, imported):
    write_images(tmp_path, "a")
    outline = {"points": [[10, 10], [80, 10], [80, 80]], "polygonlabels": ["cat"]}
    drawn = {"type": "polygonlabels", "original_width": 64, "original_height": 48, "value": outline}
    tasks = [{"data": {"image": name}, "annotations": [{"result": [drawn]}]} for name in ("a.jpg", "http://[x/b.png")]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    result = imported(tmp_path, "labelstudio")
    assert {*result.images} == {"a"} and len(result.problems) == 1 and "is none" in result.problems[0]


def test_a_damaged_tiff_is_one_problem_without_the_reader_of_bands(tmp_path, imported, monkeypatch):
    import pspnet_zoo.data.importers.sample as sample

    def missing(*_, **__):
        raise ImportError("no rasterio")

    write_images(tmp_path / "images", "a")
    (tmp_path / "images" / "b.tif").write_bytes(b"II*\0 no image")
    write_masks(tmp_path / "masks", {name: block(1) for name in "ab"})
    monkeypatch.setattr(sample, "open_raster", missing)
    result = imported(tmp_path, "masks")
    assert {*result.images} == {"a"} and "b.tif' is not an image that can be read" in result.problems[0]


def test_an_image_of_pages_is_no_mask(tmp_path, imported):
    write_images(tmp_path / "images", "ab")
    write_masks(tmp_path / "masks", {"a": block(1)})
    pages = [Image.fromarray(block(1)), Image.fromarray(block(1))]
    pages[0].save(tmp_path / "masks" / "b.tif", save_all=True, append_images=pages[1:])
    result = imported(tmp_path, "masks")
    assert {*result.images} == {"a"} and "holds several images; a mask is one" in result.problems[0]
