"""Masks to outlines and back: equal to the pixel, valid for GEOS, whatever the mask."""

import tracemalloc

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pspnet_zoo.inference import outlines
from pspnet_zoo.inference.outlines import components, find_polygons, signed_area
from pspnet_zoo.inference.prediction import Prediction
from pspnet_zoo.meta import Labels

MASKS = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2))


def test_a_ring_with_a_hole_and_an_island():
    mask = np.ones((7, 8), np.uint8)
    mask[1:6, 1:7] = 0
    mask[3, 3] = 1
    outer, island = find_polygons(mask, 1)
    assert outer.exterior.tolist() in [np.roll([[0, 0], [8, 0], [8, 7], [0, 7]], i, axis=0).tolist() for i in range(4)]
    assert len(outer.holes) == 1 and signed_area(outer.holes[0]) == -30 and signed_area(outer.exterior) == 56
    assert (outer.area, outer.box, outer.center) == (26, (0, 0, 8, 7), (4, 3.5))
    assert (island.area, island.box, island.center) == (1, (3, 3, 4, 4), (3.5, 3.5))
    assert find_polygons(mask, 1, min_area=2)[0].area == 26 and len(find_polygons(mask, 1, min_area=2)) == 1
    assert find_polygons(mask, 1, holes=False)[0].mask(7, 8).all()


@given(MASKS)
def test_masks_come_back_to_the_pixel(mask):
    for value in range(3):
        back = np.zeros(mask.shape, int)
        for polygon in find_polygons(mask, value):
            pixels = polygon.mask(*mask.shape)
            assert pixels.sum() == polygon.area and signed_area(polygon.exterior) > 0
            back += pixels
        assert (back == (mask == value)).all()  # no pixel twice


@given(MASKS)
def test_polygons_are_valid_and_have_the_area_of_their_pixels(mask):
    for polygon in find_polygons(mask, 1):
        shape = shapely.Polygon(polygon.exterior, polygon.holes)
        assert shape.is_valid and shape.area == polygon.area
        assert np.allclose(polygon.center, (shape.centroid.x, shape.centroid.y))


@given(MASKS)
def test_parts_are_those_of_scipy(mask):
    ndimage = pytest.importorskip("scipy.ndimage")
    parts, count = components(mask == 1)
    expected, number = ndimage.label(mask == 1)
    assert count == number and (parts == expected).all()


def test_a_long_snake_is_one_part():
    mask = np.zeros((60, 60), bool)
    mask[::4] = True
    mask[:, 0] = False
    for row in range(0, 56, 4):
        mask[row : row + 5, 59 if row % 8 else 1] = True
    assert components(mask)[1] == 1


def test_outlines_of_a_large_mask_take_thirty_bytes_a_pixel():
    mask = np.ones((500, 500), np.uint8)
    mask[100:200, 100:300] = 0
    tracemalloc.start()
    try:
        find_polygons(mask, 1)
        assert tracemalloc.get_traced_memory()[1] < 30 * mask.size
    finally:
        tracemalloc.stop()


@given(MASKS.map(lambda mask: mask.repeat(5, 0).repeat(5, 1)), st.floats(0.5, 3))
def test_simplified_outlines_stay_within_the_distance(mask, distance):
    for exact, simple in zip(find_polygons(mask, 1), find_polygons(mask, 1, simplify=distance), strict=True):
        assert len(simple.exterior) <= len(exact.exterior) and simple.area == exact.area
        assert shapely.Polygon(simple.exterior, simple.holes).is_valid
        line, other = shapely.LinearRing(exact.exterior), shapely.LinearRing(simple.exterior)
        assert shapely.hausdorff_distance(line, other) <= distance + 1e-9 or len(simple.exterior) == 4


def test_a_prediction_has_polygons_by_name():
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 1
    prediction = Prediction(np.zeros((4, 6, 3), np.uint8), mask, Labels(("road", "car")))
    (car,) = prediction.polygons("car")
    assert car.area == 6 and [p.class_id for p in prediction.polygons()] == [0, 1]
    with pytest.raises(ValueError, match="No class 'bus'; there are road, car"):
        prediction.polygons("bus")
    with pytest.raises(ValueError, match="simplify is -1"):
        prediction.polygons("car", simplify=-1)


def test_a_class_that_is_nowhere_takes_no_time(monkeypatch):
    monkeypatch.setattr(outlines, "components", lambda pixels: pytest.fail("the parts of nothing were looked for"))
    assert find_polygons(np.zeros((20, 30), np.uint8), 1) == [] == find_polygons(np.zeros((2, 20, 30), bool), 1)


def test_only_the_box_of_a_class_is_looked_at(monkeypatch):
    mask = np.zeros((200, 300), np.uint8)
    mask[50:60, 70:90] = 1
    mask[53:56, 75:80] = 0
    seen, original = [], outlines.components
    monkeypatch.setattr(outlines, "components", lambda pixels: seen.append(pixels.shape) or original(pixels))
    (polygon,) = find_polygons(mask, 1)
    assert seen == [(10, 20)] and polygon.box == (70, 50, 90, 60) and (polygon.mask(200, 300) == (mask == 1)).all()
