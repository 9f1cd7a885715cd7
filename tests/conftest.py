"""Small real data and networks that the tests share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo import PSPNet
from pspnet_zoo.data.labels import CAMVID


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def net() -> PSPNet:
    """A tiny PSPNet with CamVid's labels and auxiliary head, in training mode."""
    network = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=16, aux_head=True)
    network.labels = CAMVID
    return network


@pytest.fixture
def camvid(tmp_path) -> Path:
    """CamVid's layout with made-up frames: sky above, road below, a car that wanders, unlabelled corners."""
    random = np.random.default_rng(0)
    root = tmp_path / "camvid"
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((48, 64), np.uint8)
            mask[24:] = 3
            left = int(random.integers(0, 48))
            mask[20:32, left : left + 16] = 8
            mask[:4, :4] = 11
            colors = np.array([*CAMVID.colors, (0, 0, 0)], np.uint8)[mask]
            frame = np.clip(colors + random.integers(-20, 20, colors.shape), 0, 255).astype(np.uint8)
            Image.fromarray(frame).save(root / split / f"{i:03}.png")
            Image.fromarray(mask).save(root / f"{split}annot" / f"{i:03}.png")
    return root
