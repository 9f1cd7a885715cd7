"""Tiles of an image, merged in a stream, against the whole image and against evaluation's sliding windows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from pspnet_zoo.data.images import ImageError
from pspnet_zoo.data.rasters import open_raster
from pspnet_zoo.inference.predictor import Predictor
from pspnet_zoo.inference.protocols import InferenceProtocol
from pspnet_zoo.inference.scores import class_ids
from pspnet_zoo.inference.tiles import Tiling, merged_scores, segment_raster
from pspnet_zoo.inference.windows import sliding_window
from pspnet_zoo.meta import Labels, Preprocess
from pspnet_zoo.models.pspnet import PSPNet

pytest.importorskip("rasterio", reason="the extra raster is not installed")

from tests.data.test_rasters import noise as noise_of
from tests.data.test_rasters import write_tiff


class InMemory:
    def __init__(self, pixels):
        self.pixels, self.shape, self.regions = pixels, pixels.shape, []

    def read(self, region):
        self.regions.append(region)
        top, left, height, width = region
        return self.pixels[:, top : top + height, left : left + width]


def noise(height, width, bands=3):
    return np.random.default_rng(height * width).normal(size=(bands, height, width)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    """A network of three 3x3 convolutions: a pixel's scores depend on the 3 pixels around it on each side."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (8, 5)))).eval()


def score(net):
    def run(pixels):
        with torch.no_grad():
            return net(torch.from_numpy(pixels)[None])[0]

    return run


def whole(bands):
    return torch.cat([scores for _, scores in bands], dim=1)


@pytest.mark.parametrize("size", [(50, 61), (64, 64), (20, 100), (9, 9), (1, 70), (33, 32)])
def test_blended_tiles_are_the_whole_image_where_the_network_sees_little(net, size):
    pixels = noise(*size)
    tiles = whole(merged_scores(score(net), InMemory(pixels), Tiling(32, 14)))
    assert torch.allclose(tiles, score(net)(pixels), atol=1e-5)
    if min(size) > 32:  # evenly averaged, tiles show where they end
        even = whole(merged_scores(score(net), InMemory(pixels), Tiling(32, 14, blend=False)))
        assert not torch.allclose(even, score(net)(pixels), atol=1e-3)


@pytest.mark.parametrize("size", [(50, 61), (64, 64), (20, 100), (9, 9)])
def test_even_tiles_are_the_sliding_windows_of_evaluation_to_the_last_bit(net, size):
    pixels = noise(*size)
    with torch.no_grad():
        expected = sliding_window(net, torch.from_numpy(pixels)[None], (32, 32), (22, 22))[0]
    assert torch.equal(whole(merged_scores(score(net), InMemory(pixels), Tiling(32, 10, blend=False))), expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.data())
def test_every_row_comes_once_and_a_constant_stays_constant(height, width, tile, data):
    tiling = Tiling(tile, data.draw(st.integers(0, tile // 2)), data.draw(st.booleans()))
    first = data.draw(st.integers(0, height - 1))
    image, counted = InMemory(np.full((1, height, width), 3.0, np.float32)), []
    bands = list(merged_scores(torch.from_numpy, image, tiling, first_row=first, tile_done=counted.append))
    rows = [row for top, scores in bands for row in range(top, top + scores.shape[1])]
    assert rows == list(range(first, height))
    assert torch.allclose(whole(bands), torch.full((1, height - first, width), 3.0))
    assert first or sum(counted) == height * width


@pytest.mark.parametrize("blend", [False, True])
def test_a_run_that_resumes_gives_the_same_rows_without_the_tiles_above(net, blend):
    pixels, tiling = noise(120, 40), Tiling(32, 14, blend)
    expected = whole(merged_scores(score(net), InMemory(pixels), tiling))
    for first in (1, 18, 36, 100, 119):
        image = InMemory(pixels)
        assert torch.equal(whole(merged_scores(score(net), image, tiling, first_row=first)), expected[:, first:])
        assert all(region.top + region.height > first for region in image.regions)


def test_no_more_than_a_row_of_tiles_is_in_memory(net):
    bands = list(merged_scores(score(net), InMemory(noise(200, 50)), Tiling(32, 14)))
    assert max(scores.shape[1] for _, scores in bands) <= 32 and len(bands) > 8


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (32, 17), (32, -1)])
def test_an_overlap_is_at_most_half_of_a_tile(tile, overlap):
    with pytest.raises(ValueError, match="the overlap is 0 to half of a tile"):
        Tiling(tile, overlap)


def test_a_network_that_changes_the_size_is_refused():
    with pytest.raises(ValueError, match="gave .* for a tile of 32x32"):
        list(merged_scores(lambda pixels: torch.zeros(2, 16, 16), InMemory(noise(40, 40)), Tiling(32, 8)))


@pytest.fixture(scope="module")
def model():
    """A PSPNet of six bands of 16 bits."""
    torch.manual_seed(0)
    net = PSPNet("test_resnet", None, classes=4, in_channels=6).eval()
    net.preprocess = Preprocess((0.4,) * 6, (0.2,) * 6, white=65535)
    return net


@pytest.fixture
def six_bands(tmp_path):
    pixels = noise_of("uint16", 6, (150, 170))
    pixels[:, 90:110, 20:60] = 0
    return write_tiff(tmp_path / "six.tif", pixels, nodata=0)


def test_a_raster_of_other_bands_is_segmented_as_the_whole_image(model, six_bands):
    with open_raster(six_bands) as raster:
        pixels, valid = raster.read(), raster.valid()
        ids = np.concatenate(list(segment_raster(model, raster, Tiling(256, 64))))
    assert ids.shape == (150, 170) and (ids == 255).sum() == 20 * 40 and (ids[90:110, 20:60] == 255).all()
    filled = np.where(valid, pixels, np.uint16(0.4 * 65535)).astype(np.float32)
    expected = class_ids(model, torch.from_numpy(filled)[None])[0].numpy()
    assert np.array_equal(ids[valid[0]], expected[valid[0]]) and len(np.unique(ids)) > 2


def test_a_raster_in_tiles_is_what_evaluation_finds_by_its_sliding_window(model, six_bands):
    """As the published protocols of aerial checkpoints have it: windows, evenly averaged."""
    with open_raster(six_bands) as raster:
        ids = np.concatenate(list(segment_raster(model, raster, Tiling(64, 22, blend=False))))
        pixels = torch.from_numpy(np.where(raster.valid(), raster.read(), np.uint16(0.4 * 65535)).astype(np.float32))
    protocol = InferenceProtocol(source="here", crop=(64, 64), stride=(42, 42))
    expected = class_ids(model, pixels[None], protocol)[0].numpy()
    assert np.array_equal(ids[ids != 255], expected[ids != 255])


@pytest.mark.parametrize("model", ["pspnet_lite0.camvid", "pspnet_r101c.mmseg_cityscapes", "folder"])
def test_tiles_that_are_too_large_are_refused_before_the_model_is_loaded(model, tmp_path, monkeypatch):
    def load(*arguments, **options):
        raise AssertionError("not reached")

    if model == "folder":
        network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=16)
        network.labels = Labels(("road", "sky"))
        model = network.save_pretrained(tmp_path / "net")
    monkeypatch.setattr("pspnet_zoo.inference.predictor.open_runtime", load)
    for options in ({"tile": 10**6}, {"tile": 64, "overlap": 60}):
        with pytest.raises(ValueError, match="tile is"):
            Predictor(model, **options)


def test_a_geotiff_with_transparency_is_read_without_it_and_has_no_data_where_it_is_transparent(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (4, 40, 56), np.uint8)
    pixels[3, 8:20, 10:30] = 0
    path = write_tiff(tmp_path / "a.tif", pixels, photometric="RGB", alpha="YES")
    network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=16)
    network.labels = Labels(("a", "b"))
    assert (Predictor(network)(path).mask == 255).sum() == 240
    assert (np.concatenate(list(Predictor(network, tile=32).rows(path))) == 255).sum() == 240


def test_more_classes_than_rows_can_hold_are_refused(tmp_path):
    network = PSPNet("test_efficientnet", None, classes=300, psp_out_channels=16)
    network.labels = Labels(tuple(f"c{i}" for i in range(300)))
    predictor = Predictor(network, tile=64)
    Image.new("RGB", (80, 90)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="up to 255 classes, and the model has 300"):
        list(predictor.rows(tmp_path / "a.png"))
    write_tiff(tmp_path / "a.tif", np.pad(np.ones((3, 40, 40), np.uint8), ((0, 0), (0, 0), (0, 40))), nodata=0)
    with pytest.raises(ImageError, match="without data, 255 in masks, and the network has 300 classes"):
        predictor(tmp_path / "a.tif")
