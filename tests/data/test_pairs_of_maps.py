"""Datasets of 8-bit GeoTIFFs: what has no data is ignored, as in prediction."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("rasterio", reason="the extra raster is not installed")

from pspnet_zoo import Predictor
from pspnet_zoo.data.check import check_dataset
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.data.rasters import Region
from pspnet_zoo.evaluation.evaluate import evaluate
from tests.data.test_rasters import noise, write_tiff

SIZE = (40, 56)
GAP = np.zeros(SIZE, bool)
GAP[:10, :20] = True


def folder_of(tmp_path, pixels, **options):
    """The folder layout with one GeoTIFF and its mask, in which every pixel counts."""
    for kind in ("images", "masks"):
        (tmp_path / "val" / kind).mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("\n".join(CAMVID.names))
    Image.fromarray(np.random.default_rng(0).integers(0, 11, SIZE, np.uint8)).save(tmp_path / "val" / "masks" / "a.png")
    return write_tiff(tmp_path / "val" / "images" / "a.tif", pixels, **options)


def with_nodata(tmp_path):
    pixels = noise("uint8", 3, SIZE) // 2 + 1
    pixels[:, GAP] = 0
    return folder_of(tmp_path, pixels, nodata=0)


def with_alpha(tmp_path):
    pixels = noise("uint8", 4, SIZE)
    pixels[3] = np.where(GAP, 0, 255)
    return folder_of(tmp_path, pixels, photometric="RGB", alpha="YES")


@pytest.mark.parametrize("make", [with_nodata, with_alpha])
def test_pixels_without_data_are_ignored_and_the_others_are_predicted_as_by_the_predictor(net, tmp_path, make):
    path = make(tmp_path)
    dataset = open_dataset("folder", tmp_path, "val")
    image, mask = dataset[0]
    assert np.array_equal(np.asarray(mask) == 255, GAP) and image.shape == (3, *SIZE) and image.dtype == torch.uint8
    net.segmentation_head[0].weight.data *= 30
    saved, expected = {}, Predictor(net, fast=False)(path).mask  # folded norms round otherwise where classes are nearly alike
    result = evaluate(net, dataset, save=saved.__setitem__)
    assert np.array_equal(expected == 255, GAP) and len(np.unique(expected)) > 3
    assert np.array_equal(saved[0].numpy()[~GAP], expected[~GAP])
    assert sum(map(sum, result.confusion)) == (~GAP).sum()
    contents, problems = check_dataset("folder", tmp_path)
    assert not problems and contents["val"].pixels[255] == GAP.sum()


def with_nodata_and_no_coordinates(tmp_path):
    pixels = noise("uint8", 3, SIZE) // 2 + 1
    pixels[:, GAP] = 0
    return folder_of(tmp_path, pixels, nodata=0, crs=None, transform=None, photometric="RGB")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("make", [with_nodata, with_alpha, with_nodata_and_no_coordinates])
def test_a_window_has_the_pixels_and_the_mask_of_the_whole_image(tmp_path, make):
    make(tmp_path)
    dataset = open_dataset("folder", tmp_path, "val")
    assert dataset.window_size(0) == SIZE
    image, mask = dataset.window(0, Region(4, 8, 20, 30))
    whole = dataset[0]
    assert torch.equal(image, whole[0][:, 4:24, 8:38]) and torch.equal(mask, whole[1][4:24, 8:38])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_photo_with_transparency_is_read_whole_since_it_is_laid_on_white(tmp_path):
    pixels = noise("uint8", 4, SIZE)
    pixels[3] = np.where(GAP, 0, 255)
    folder_of(tmp_path, pixels, crs=None, transform=None, photometric="RGB", alpha="YES")
    dataset = open_dataset("folder", tmp_path, "val")
    assert dataset.window_size(0) is None and (dataset[0][0][:, GAP] == 255).all()


def test_a_geotiff_of_other_bands_is_read_as_a_photo(tmp_path):
    pixels = noise("uint8", 1, SIZE)
    folder_of(tmp_path, pixels, nodata=0)
    image, mask = open_dataset("folder", tmp_path, "val")[0]
    assert (mask != 255).all() and np.array_equal(np.asarray(image), pixels.repeat(3, 0))
