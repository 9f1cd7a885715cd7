"""What travels with weights."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pspnet_zoo.meta import Labels, Preprocess, distinct_colors

PLAIN = Preprocess((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_labels_without_colours_get_distinct_ones():
    assert Labels(("a", "b")).colors == distinct_colors(2)
    colors = Labels(tuple(map(str, range(600)))).colors
    assert len(set(colors)) == 600 and (0, 0, 0) not in colors


@pytest.mark.parametrize(
    ("names", "reason"),
    [(("a", "b", "a"), "Several classes are named 'a'"), ("road", "a list of texts"), ((1, 2), "a list of texts")],
)
def test_names_that_cannot_tell_classes_apart_are_refused(names, reason):
    with pytest.raises(ValueError, match=reason):
        Labels(names)


def test_numpys_integers_are_colours():
    labels = Labels(["a", "b"], np.array([[1, 2, 3], [4, 5, 255]], np.uint8))
    assert labels == Labels(("a", "b"), ((1, 2, 3), (4, 5, 255))) and json.dumps(asdict(labels))


@pytest.mark.parametrize("color", [(1, 2), (1, 2, 256), (-1, 2, 3), (1.0, 2, 3), (True, 2, 3), ("1", 2, 3)])
def test_what_is_no_colour_is_refused(color):
    with pytest.raises(ValueError, match="must be three integers of 0 to 255"):
        Labels(("a",), (color,))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("std", (0.5, 0.0, 0.5)),
        ("std", (0.5, float("nan"), 0.5)),
        ("range", 0.0),
        ("max_pixels", 0),
        ("mean", (0.1, 0.2)),
        ("mean", (0.1, 0.2, float("inf"))),
        ("input_scale", 0.5),
        ("order", "GBR"),
    ],
)
def test_numbers_that_no_preprocessing_can_have_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is"):
        replace(PLAIN, **{field: value})


def test_the_mean_colour_is_rgb_from_0_to_255():
    assert PLAIN.mean_color == pytest.approx((25.5, 51, 76.5))
    assert replace(PLAIN, mean=(10, 20, 30), range=255, order="BGR").mean_color == pytest.approx((30, 20, 10))


def test_channels_beyond_bgr_stay_where_they_are():
    bgr = Preprocess((10, 20, 30, 40, 50), (1, 2, 3, 4, 5), range=255, order="BGR")
    assert bgr.mean_color == (30, 20, 10, 40, 50) and bgr.std_color == (3, 2, 1, 4, 5)
    pixels = torch.tensor([30, 20, 10, 40, 50], dtype=torch.uint8).view(5, 1, 1)
    offset = torch.tensor([1, 2, 3, 4, 5], dtype=torch.uint8).view(5, 1, 1)
    assert bgr(pixels).flatten().tolist() == [0] * 5
    assert bgr(pixels + offset).flatten().tolist() == pytest.approx([3, 1, 1 / 3, 1, 1])


def test_sixteen_bit_pixels_are_scaled_by_their_own_white():
    eight, sixteen = Preprocess((0.5,) * 2, (0.25,) * 2), Preprocess((0.5,) * 2, (0.25,) * 2, white=65535)
    pixels = torch.arange(24, dtype=torch.uint8).view(1, 2, 3, 4)
    assert torch.allclose(sixteen(pixels.to(torch.int32) * 257), eight(pixels), atol=1e-6)
    assert sixteen.mean_color == (32767.5, 32767.5)


@pytest.mark.parametrize("bands", [("red",), ("red", "red"), ("red", "nir", "swir")])
def test_bands_have_a_name_a_channel(bands):
    with pytest.raises(ValueError, match="2 different names"):
        Preprocess((0.5,) * 2, (0.25,) * 2, bands=bands)


def test_a_config_of_before_the_first_release_is_read():
    old = {"mean": [0.5], "std": [0.5], "range": 1.0, "max_pixels": 100, "enlarge": 2.0, "order": "RGB"}
    assert Preprocess.from_dict(old) == Preprocess((0.5,), (0.5,), max_pixels=100, input_scale=2.0)


@pytest.mark.parametrize("white", [255.0, 65535.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.int32])
def test_pixels_are_normalised_only_from_the_type_that_white_states(dtype, white):
    preprocess, image = replace(PLAIN, white=white), torch.ones(1, 3, 2, 2, dtype=dtype)
    if (dtype == torch.uint8) == (white == 255):
        assert torch.equal(preprocess(image), preprocess.normalize(image.float()))
    else:
        with pytest.raises(ValueError, match=r"The image is .*int|The image is float.* uint8 of 0 to 255"):
            preprocess(image)
