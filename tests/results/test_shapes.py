"""Files of polygons beside masks of every size."""

import json

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.meta import Labels
from pspnet_zoo.results import shapes
from pspnet_zoo.results.jobs import Job
from pspnet_zoo.results.maps import MapWriter
from pspnet_zoo.results.shapes import write_shapes

LABELS = Labels(("background", "cat"))


@pytest.fixture
def jobs(tmp_path):
    """Two images, and masks of one cat each."""
    made = []
    for name in "ab":
        ids = np.zeros((40, 50), np.uint8)
        ids[10:20, 5:25] = 1
        Image.fromarray(ids).save(tmp_path / f"{name}_mask.png")
        made.append(Job(tmp_path / f"{name}.jpg", name, None, tmp_path / f"{name}_mask.png"))
    return made


def test_masks_that_are_geotiff_may_have_more_pixels_than_pillow_opens(tmp_path, monkeypatch):
    pytest.importorskip("rasterio", reason="the extra raster is not installed")
    ids = np.zeros((40, 50), np.uint8)
    ids[10:20, 5:25] = 1
    with MapWriter(tmp_path / "a_mask.tif", ids.shape, LABELS, {}) as writer:
        writer.add(ids)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    errors = []
    job = Job(tmp_path / "a.jpg", "a", None, tmp_path / "a_mask.tif")
    assert write_shapes([job], LABELS, tmp_path, "labelme", fail=errors.append)[0] == 1 and not errors
    (shape,) = json.loads((tmp_path / "a.json").read_text())["shapes"]
    assert sorted(map(tuple, shape["points"])) == [(5, 10), (5, 20), (25, 10), (25, 20)]


def test_polygons_that_need_too_much_memory_are_named_and_the_others_are_written(jobs, tmp_path, monkeypatch):
    find, calls = shapes.find_polygons, []

    def short(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise MemoryError
        return find(*arguments, **options)

    monkeypatch.setattr(shapes, "find_polygons", short)
    errors = []
    assert write_shapes(jobs, LABELS, tmp_path, "labelme", fail=errors.append) == (1, 0, tmp_path)
    assert str(errors[0]).startswith(f"'{tmp_path / 'a.jpg'}': its polygons need more memory than there is") and len(errors) == 1
    assert not (tmp_path / "a.json").exists() and (tmp_path / "b.json").exists()


def test_a_data_yaml_of_other_classes_is_kept_where_texts_have_its_numbers(jobs, tmp_path):
    errors, first, second = [], Labels(("background", "cat \U0001f408", "dog")), Labels(("background", "road", "sky"))
    for _ in range(2):  # nobody edited it in between
        assert write_shapes(jobs, first, tmp_path, "yolo", fail=errors.append) == (2, 0, tmp_path) and not errors
    names, text = (tmp_path / "data.yaml").read_bytes(), tmp_path / "labels" / "a.txt"
    text.write_text(text.read_text().replace("1 ", "2 ", 1))  # it is a dog
    assert write_shapes(jobs, second, tmp_path, "yolo", fail=errors.append) == (0, 0, tmp_path)
    assert str(errors[0]) == (
        f"'{tmp_path / 'data.yaml'}' is kept, since it names other classes, so that no labels were written. Move it and labels/ "
        "away, or choose another folder with -o"
    )
    assert (tmp_path / "data.yaml").read_bytes() == names and text.read_text().startswith("2 ") and len(errors) == 1


def test_texts_whose_classes_no_data_yaml_names_are_kept(jobs, tmp_path):
    errors = []
    write_shapes(jobs, LABELS, tmp_path, "yolo", fail=pytest.fail)
    (tmp_path / "data.yaml").unlink()
    before = (tmp_path / "labels" / "a.txt").read_bytes()
    assert write_shapes(jobs[:1], Labels(("background", "dog")), tmp_path, "yolo", fail=errors.append) == (0, 0, tmp_path)
    assert str(errors[0]).startswith(
        f"'{tmp_path / 'labels'}' is kept, since it has texts whose classes no data.yaml names, so that"
    )
    assert (tmp_path / "labels" / "a.txt").read_bytes() == before and not (tmp_path / "data.yaml").exists()


def test_a_data_yaml_without_texts_that_nobody_edited_is_replaced(jobs, tmp_path):
    write_shapes([], Labels(("background", "dog")), tmp_path, "yolo", fail=pytest.fail)
    assert write_shapes(jobs, LABELS, tmp_path, "yolo", fail=pytest.fail)[0] == 2
    assert json.loads((tmp_path / "data.yaml").read_text())["names"] == list(LABELS.names)
