"""Masks as pictures."""

import numpy as np
from PIL import Image

from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.inference import draw


def test_ignored_pixels_are_black_alone_and_show_the_picture_in_an_overlay():
    mask = np.array([[0, 255]], np.uint8)
    image = np.full((1, 2, 3), 77, np.uint8)
    assert draw.colorize(mask, CAMVID).tolist() == [[list(CAMVID.colors[0]), [0, 0, 0]]]
    assert draw.overlay(image, mask, CAMVID, 1.0)[0, 1].tolist() == [77] * 3


def test_a_legend_has_a_swatch_of_every_class_in_the_picture():
    shares = {"sky": 0.25, "road": 0.75, "car": 0.0}
    legend = np.array(draw.with_legend(Image.new("RGB", (10, 100), "white"), CAMVID, shares))[:, 10:]
    colors = {tuple(c) for c in legend.reshape(-1, 3).tolist()}
    assert CAMVID.colors[0] in colors and CAMVID.colors[3] in colors and CAMVID.colors[8] not in colors


def test_a_legend_fits_a_picture_of_one_pixel():
    assert draw.with_legend(Image.new("RGB", (1, 1)), CAMVID, dict.fromkeys(CAMVID.names, 1 / 11)).height > 11 * 12
