"""What is written opens in other readers, and comes back as the same pixels."""

import json
from pathlib import Path
from unittest import mock

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
from pspnet_zoo.results import polygons as formats
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


def seams_one_by_one(polygon):
    """The ring of `yolo` with all distances computed anew for each hole."""
    ring, holes = polygon.exterior, list(polygon.holes)
    while holes:
        found = []
        for place, hole in enumerate(holes):
            distance = ((ring[:, None] - hole[None]) ** 2).sum(2)
            at, start = np.unravel_index(int(distance.argmin()), distance.shape)
            found.append((distance[at, start], place, at, start))
        _, place, at, start = min(found, key=lambda each: each[0])
        hole = np.roll(holes.pop(place), -start, axis=0)
        ring = np.concatenate([ring[: at + 1], hole, hole[:1], ring[at:]])
    return ring


@given(arrays(np.uint8, st.tuples(st.integers(5, 25), st.integers(5, 25)), elements=st.sampled_from([0, 1, 1, 1, 1])))
def test_seams_lead_to_the_nearest_hole_first(mask):
    for polygon in find_polygons(np.pad(mask, 1, constant_values=1), 1):
        expected = (seams_one_by_one(polygon) / (100, 100)).ravel()
        assert yolo((100, 100), [polygon]).split() == ["1", *(f"{value:.6f}" for value in expected)]


def test_many_holes_cost_their_number_and_not_its_square():
    """Distances that are computed from the outline, of 4,000 corners: once a hole."""
    mask = np.ones((121, 2003), np.uint8)
    mask[0, ::2] = 0
    for number in range(40):
        mask[20:100, 20 + 45 * number : 50 + 45 * number] = 0
    (polygon,) = find_polygons(mask, 1)
    assert len(polygon.holes) == 40 and len(polygon.exterior) > 4000
    with mock.patch.object(formats, "_nearest", wraps=formats._nearest) as nearest:
        yolo(mask.shape, [polygon])
    assert sum(len(ring) > 1000 for ring, _ in (call.args for call in nearest.call_args_list)) == 40


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


def test_distances_of_many_corners_are_held_a_part_at_a_time(monkeypatch):
    random = np.random.default_rng(0)
    for _ in range(20):
        ring, hole = random.integers(0, 9, (50, 2)).astype(float), random.integers(0, 9, (7, 2)).astype(float)
        monkeypatch.setattr(formats, "_AT_ONCE", 1 << 22)
        whole = formats._nearest(ring, hole)
        monkeypatch.setattr(formats, "_AT_ONCE", 20)
        assert formats._nearest(ring, hole) == whole
