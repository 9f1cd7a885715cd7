"""Stamps are read from the files that hold them, whatever their size and state."""

import random

import numpy as np
import pytest

from pspnet_zoo.data.images import encode_class_masks
from pspnet_zoo.results.stamp import TIFF_TAG, make_stamp, read_stamp

STAMP = make_stamp("a", "b", model="<a & 'b' &amp; c>", tile=512)


@pytest.fixture
def masks(tmp_path):
    """A GeoTIFF of more pixels than Pillow opens, and a multi-label mask."""
    rasterio = pytest.importorskip("rasterio", reason="the extra raster is not installed")
    size = {"width": 30000, "height": 30000, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    place = {"transform": rasterio.Affine(10, 0, 500000, 0, -10, 6000000)}
    with rasterio.open(tmp_path / "a_mask.tif", "w", driver="GTiff", tiled=True, sparse_ok=True, **size, **place) as file:
        file.update_tags(**{TIFF_TAG: STAMP})
    with rasterio.open(tmp_path / "a_mask.tif") as file:
        assert file.tags()[TIFF_TAG] == STAMP
    (tmp_path / "b_mask.tif").write_bytes(encode_class_masks(np.zeros((2, 3, 4)), f"{TIFF_TAG} {STAMP}"))
    return [tmp_path / "a_mask.tif", tmp_path / "b_mask.tif"]


def test_the_stamp_of_a_tiff_is_read_whatever_its_size(masks):
    assert [read_stamp(path) for path in masks] == [STAMP, STAMP]


def test_a_hundred_damaged_tiffs_have_a_stamp_or_none(masks):
    generator = random.Random(0)
    for path in masks:
        whole = path.read_bytes()
        for _ in range(50):
            data = bytearray(whole)
            for _ in range(generator.randint(1, 5)):
                data[generator.randrange(min(len(data), 1000))] = generator.randrange(256)
            path.write_bytes(data[: generator.choice([len(data), generator.randrange(len(data))])])
            assert isinstance(read_stamp(path), str | None)
