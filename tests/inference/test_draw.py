"""Masks as images."""

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.labels import CAMVID, Labels, distinct_colors
from pspnet_zoo.inference import draw


def test_ignored_pixels_are_black_alone_and_show_the_image_in_an_overlay():
    mask = np.array([[0, 255]], np.uint8)
    image = np.full((1, 2, 3), 77, np.uint8)
    assert draw.colorize(mask, CAMVID).tolist() == [[list(CAMVID.colors[0]), [0, 0, 0]]]
    assert draw.overlay(image, mask, CAMVID, 1.0)[0, 1].tolist() == [77] * 3


def test_a_legend_has_a_swatch_of_every_class_in_the_image():
    class_fractions = {"sky": 0.25, "road": 0.75, "car": 0.0}
    legend = np.array(draw.with_legend(Image.new("RGB", (10, 100), "white"), CAMVID, class_fractions))[:, 10:]
    colors = {tuple(c) for c in legend.reshape(-1, 3).tolist()}
    assert CAMVID.colors[0] in colors and CAMVID.colors[3] in colors and CAMVID.colors[8] not in colors


def test_a_legend_names_no_class_of_zero_percent():
    few = {"sky": 0.9994, "road": 0.00049, "car": 0.0}
    legends = [np.array(draw.with_legend(Image.new("RGB", (9, 9)), CAMVID, f)) for f in (few, {"sky": 0.9994})]
    assert np.array_equal(*legends)
    more = draw.with_legend(Image.new("RGB", (9, 9)), CAMVID, {"sky": 0.9994, "road": 0.0005})
    assert more.height > legends[0].shape[0]


def test_a_legend_is_a_column_of_swatches_and_texts_from_the_largest_share():
    height, size, line, pad = 640, 20, 30, 10  # a line of text is a 32nd of the height
    class_fractions = {"road": 0.25, "car": 0.0, "sky": 0.75}
    legend = np.array(draw.with_legend(Image.new("RGB", (7, height), "white"), CAMVID, class_fractions)).astype(int)
    assert legend.shape[0] == height
    for row, name in enumerate(("sky", "road")):
        color = np.array(CAMVID.colors[CAMVID.names.index(name)])
        top, left = pad + row * line + line // 6, 7 + pad
        rows, columns = np.nonzero((legend[:, : left + line] == color).all(2))
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (top + 1, top + size - 1, left + 1, left + size - 1)
        text = (legend[top - 5 : top + line - 5, left + line :] < 128).all(2)
        rows, columns = np.nonzero(text)
        assert abs((rows.min() + rows.max()) / 2 - 5 - size // 2) <= 3 and columns.min() <= 3
    texts = np.nonzero((legend[:, 7 + pad + line :] < 128).all(2))[1]
    assert abs(legend.shape[1] - (7 + pad + line + texts.max()) - pad) <= 3


@pytest.mark.parametrize(("height", "size"), [(1, 12), (12 * 32, 12), (20 * 32, 20), (4000, 40)])
def test_a_legends_text_grows_with_the_image_within_bounds(height, size):
    legend = np.array(draw.with_legend(Image.new("RGB", (1, height), "white"), CAMVID, {"sky": 1.0}))
    assert (legend == CAMVID.colors[0]).all(2).any(1).sum() == size - 1
    assert legend.shape[0] == max(height, round(1.5 * size) + 2 * (size // 2))


def test_more_classes_than_255_keep_a_colour_each_and_the_image_under_none():
    labels = Labels(tuple(f"class {i}" for i in range(300)), distinct_colors(300))
    mask = np.array([[0, 255, 299]], np.uint16)
    image = np.zeros((1, 3, 3), np.uint8)
    assert draw.palette(CAMVID).shape == (256, 3) and draw.palette(labels).shape == (300, 3)
    assert draw.overlay(image, mask, labels, 1.0)[0].tolist() == [list(labels.colors[i]) for i in (0, 255, 299)]


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_an_overlay_beyond_the_colours_is_refused(alpha):
    with pytest.raises(ValueError, match=f"alpha is {alpha}"):
        draw.overlay(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), CAMVID, alpha)


def test_a_legend_fits_an_image_of_one_pixel():
    assert draw.with_legend(Image.new("RGB", (1, 1)), CAMVID, dict.fromkeys(CAMVID.names, 1 / 11)).height > 11 * 12
