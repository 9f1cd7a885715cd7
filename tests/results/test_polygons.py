"""What is written opens in other readers, and comes back as the same pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools.coco import COCO

from pspnet_zoo.data.importers.recognise import read_source
from pspnet_zoo.data.importers.regions import draw
from pspnet_zoo.inference.outlines import find_polygons
from pspnet_zoo.meta import Labels
from pspnet_zoo.results.polygons import coco, geojson, labelme, yolo

LABELS = Labels(("background", "cat", "dog"))
MASKS = arrays(np.uint8, st.tuples(st.integers(2, 12), st.integers(2, 12)), elements=st.integers(0, 2))
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def polygons_of(mask):
    return [polygon for value in (1, 2) for polygon in find_polygons(mask, value)]


@given(MASKS)
def test_pycocotools_reads_the_same_pixels(mask):
    written = json.loads(json.dumps(coco({"a.jpg": (mask.shape, polygons_of(mask))}, LABELS)))
    reader = COCO()
    reader.dataset = written
    reader.createIndex()
    back = np.zeros(mask.shape, np.uint8)
    for annotation in reader.anns.values():
        pixels = reader.annToMask(annotation) > 0
        assert pixels.sum() == annotation["area"]
        back[pixels] = annotation["category_id"] - 1
    assert (back == mask).all()
    assert [c["name"] for c in reader.loadCats([1, 2, 3])] == list(LABELS.names)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(MASKS, st.sampled_from(["coco", "labelme", "yolo"]))
def test_what_is_written_is_imported_as_the_same_pixels(tmp_path, mask, kind):
    root = Path(tmp_path, str(hash((mask.tobytes(), mask.shape, kind))))
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    Image.fromarray(mask).save(root / "images" / "a.png")
    polygons = polygons_of(mask)
    if kind == "coco":
        (root / "a.json").write_text(json.dumps(coco({"a.png": (mask.shape, polygons)}, LABELS)))
    elif kind == "labelme":
        (root / "a.json").write_text(json.dumps(labelme("images/a.png", mask.shape, polygons, LABELS)))
    else:
        (root / "labels" / "a.txt").write_text(yolo(mask.shape, polygons))
        (root / "classes.txt").write_text("background\ncat\ndog\n")
    source = read_source(root, kind)
    assert not source.problems
    back = np.zeros(mask.shape, np.uint8)
    for each in source.samples[0].objects:
        box, pixels, doubts = draw(each, *mask.shape)
        assert each.category is not None and not doubts
        back[box][pixels] = LABELS.names.index(source.categories[each.category].name)
    assert (back == mask).all()


@given(MASKS)
def test_geojson_is_read_by_shapely_in_the_maps_coordinates(mask):
    polygons = polygons_of(mask)
    written = geojson(polygons, LABELS, lambda x, y: (500 + 2 * x, 900 - 2 * y))
    assert written["type"] == "FeatureCollection" and len(written["features"]) == len(polygons)
    for polygon, feature in zip(polygons, json.loads(json.dumps(written))["features"], strict=True):
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid and shape.area == 4 * polygon.area and shape.exterior.is_ccw
        assert not any(ring.is_ccw for ring in shape.interiors)
        assert np.allclose(feature["properties"]["center"], (shape.centroid.x, shape.centroid.y))
        assert feature["properties"]["class"] == LABELS.names[polygon.class_id]


def test_labelme_files_have_what_its_reader_asks_for():
    """github wkentaro/labelme 6.3.1, _label_file.py: these keys, of these types."""
    mask = np.ones((5, 5), np.uint8)
    mask[2, 2] = 0
    written = labelme("a.jpg", mask.shape, find_polygons(mask, 1), LABELS)
    assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} == written.keys()
    (shape,) = written["shapes"]
    assert {"label", "points", "group_id", "shape_type", "flags", "description", "mask"} == shape.keys()
    assert shape["shape_type"] == "mask" and shape["points"] == [[0, 0], [4, 4]]
