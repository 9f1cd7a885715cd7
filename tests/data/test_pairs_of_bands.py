"""Datasets whose images are not 8-bit RGB: the folder layout with a stated preprocessing."""

import numpy as np
import pytest
import torch

from pspnet_zoo.data.check import check_dataset
from pspnet_zoo.data.images import ImageError
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.data.stats import pixel_stats, write_preprocess

pytest.importorskip("rasterio", reason="the extra raster is not installed")

from PIL import Image

from tests.data.test_rasters import noise, write_tiff

NAMES = ("red", "nir", "swir")


@pytest.fixture
def folder(tmp_path):
    """Two six-band images and their masks for each split, one pixel without data."""
    (tmp_path / "classes.txt").write_text("field\nforest\n")
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for name in ("a", "b"):
            pixels = noise("float32", 3, (20, 30))
            pixels[:, 4, 5] = -9999
            write_tiff(tmp_path / split / "images" / f"{name}.tif", pixels, names=NAMES, nodata=-9999)
            mask = np.random.default_rng(0).integers(0, 2, (20, 30), np.uint8)
            if name == "a":
                Image.fromarray(mask).save(tmp_path / split / "masks" / "a.png")
            else:
                write_tiff(tmp_path / split / "masks" / "b.tif", mask[None])
    stats, _ = pixel_stats(sorted((tmp_path / "train" / "images").iterdir()))
    write_preprocess(tmp_path, stats.preprocess())
    return tmp_path


def test_items_have_the_files_own_bands_and_type_and_ignore_what_has_no_data(folder):
    dataset = open_dataset("folder", folder, "train")
    assert dataset.preprocess.bands == NAMES and len(dataset) == 2
    for image, mask in dataset:
        assert image.shape == (3, 20, 30) and image.dtype == torch.float32 and mask.dtype == torch.uint8
        assert mask[4, 5] == 255 and (mask == 255).sum() == 1
        assert torch.allclose(image[:, 4, 5], torch.tensor(dataset.preprocess.mean_color), rtol=1e-6)


def test_a_check_reads_every_band_and_names_what_does_not_fit(folder):
    contents, problems = check_dataset("folder", folder)
    assert not problems and contents["train"].sizes == {(30, 20): 2} and contents["val"].pixels[255] == 2
    write_tiff(folder / "val" / "images" / "a.tif", noise("float32", 2, (20, 30)), names=NAMES[:2])
    _, problems = check_dataset("folder", folder)
    assert len(problems) == 1 and "has the bands red, nir; the network also reads swir" in problems[0]


def test_an_image_without_any_data_is_named(folder):
    write_tiff(folder / "val" / "images" / "a.tif", np.full((3, 20, 30), -9999, np.float32), names=NAMES, nodata=-9999)
    with pytest.raises(ImageError, match=r"a\.tif' has no data in any pixel"):
        open_dataset("folder", folder, "val")[0]


def test_without_a_stated_preprocessing_arrays_are_refused_with_the_next_step(folder):
    (folder / "preprocess.json").unlink()
    np.save(folder / "train" / "images" / "a.npy", noise("float32", 3, (20, 30)))
    (folder / "train" / "images" / "a.tif").unlink()
    with pytest.raises(ImageError, match=r"a\.npy' is no 8-bit RGB image; state how it is read: pspnet-zoo data stats"):
        open_dataset("folder", folder, "train")[0]
