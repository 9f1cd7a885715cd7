"""Several datasets as one: each item is read as its own dataset reads it."""

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo.data.dataset import as_segmentation_dataset
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.data.rasters import Region
from pspnet_zoo.data.unlabelled import Joined, Unlabelled

pytest.importorskip("rasterio", reason="the extra raster is not installed")

REGION = Region(4, 8, 20, 30)


def test_windows_are_those_of_the_dataset_that_has_the_image(tmp_path):
    random = np.random.default_rng(0)
    for folder in ("train/images", "train/masks", "more"):
        (tmp_path / folder).mkdir(parents=True)
        mask = folder == "train/masks"
        pixels = random.integers(0, 2 if mask else 256, (40, 56) if mask else (40, 56, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / f"a.{'png' if mask else 'tif'}")
    (tmp_path / "classes.txt").write_text("background\ncrack\n")
    labelled = open_dataset("folder", tmp_path, "train")
    joined = as_segmentation_dataset(Joined([Unlabelled(tmp_path / "more", labelled.labels), labelled]))
    assert [joined.window_size(index) for index in range(2)] == [None, (40, 56)]
    for one, other in zip(joined.window(1, REGION), labelled.window(0, REGION), strict=True):
        assert torch.equal(one, other) and one.shape[-2:] == (20, 30)
