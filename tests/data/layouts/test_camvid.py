"""CamVid's reader: every pair, and no silent mistake."""

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo.data.images import ImageError
from pspnet_zoo.data.open import open_dataset


def test_pairs_are_uint8_with_unlabelled_pixels_ignored(camvid):
    dataset = open_dataset("camvid", camvid, "train")
    image, mask = dataset[0]
    assert len(dataset) == 5 and len(dataset.labels) == 11
    assert image.shape == (3, 48, 64) and mask.shape == (48, 64) and image.dtype == mask.dtype == torch.uint8
    assert sorted(mask.unique().tolist()) == [0, 3, 8, 255] and mask[0, 0] == 255


def test_a_mask_of_another_size_is_named(camvid):
    path = camvid / "val" / ".." / "valannot" / "001.png"
    Image.new("L", (10, 10)).save(path)
    with pytest.raises(ImageError, match=r"001.png' is 10x10, its image is 64x48"):
        open_dataset("camvid", camvid, "val")[1]


def test_an_id_outside_the_label_set_is_named(camvid):
    mask = np.zeros((48, 64), np.uint8)
    mask[3, 3], mask[4, 4] = 12, 200
    Image.fromarray(mask).save(camvid / "valannot" / "002.png")
    with pytest.raises(ImageError, match=r"002.png' holds the ids \[12, 200\]"):
        open_dataset("camvid", camvid, "val")[2]


def test_what_is_missing_is_named(camvid):
    with pytest.raises(ValueError, match="split is 'all'; CamVid has train, val, test"):
        open_dataset("camvid", camvid, "all")
    with pytest.raises(FileNotFoundError, match="No folder '.*nowhere/train'"):
        open_dataset("camvid", camvid / "nowhere", "train")
    (camvid / "testannot" / "000.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"000.png' has no mask"):
        open_dataset("camvid", camvid, "test")
    for file in (camvid / "val").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="No images in"):
        open_dataset("camvid", camvid, "val")
