"""Protocols against a slow statement of the upstreams' rules, one window and one pixel at a time, in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pspnet_zoo.inference.protocols import PROTOCOLS, InferenceProtocol
from pspnet_zoo.inference.windows import segment, sliding_window

CLASSES = 3


@pytest.fixture
def convolution():
    """A network whose output depends on where a window begins and ends, as that of any real one does."""
    layer = torch.nn.Conv2d(3, CLASSES, kernel_size=5, padding=2).double()
    torch.nn.init.normal_(layer.weight)
    slopes = torch.randn(2, CLASSES, 1, 1).double()

    def net(x):
        rows, columns = (torch.linspace(0, 1, side) for side in x.shape[-2:])
        return layer(x.double()) + slopes[0] * rows[:, None] + slopes[1] * columns

    return net


def slow_resize(maps, height, width, align_corners=False):
    """Bilinear: (C, H, W) float64, one output pixel at a time."""
    result = np.empty((len(maps), height, width))
    for y in range(height):
        for x in range(width):
            place = []
            for at, out, size in ((y, height, maps.shape[1]), (x, width, maps.shape[2])):
                if align_corners:
                    source = at * (size - 1) / (out - 1) if out > 1 else 0.0
                else:
                    source = min(max((at + 0.5) * size / out - 0.5, 0.0), size - 1)
                low = math.floor(source)
                place.append((low, min(low + 1, size - 1), source - low))
            (top, bottom, v), (left, right, u) = place
            upper = maps[:, top, left] * (1 - u) + maps[:, top, right] * u
            lower = maps[:, bottom, left] * (1 - u) + maps[:, bottom, right] * u
            result[:, y, x] = upper * (1 - v) + lower * v
    return result


def slow_windows(function, image, crop, stride):
    """The mean over all windows of what `function` gives each, with the grid as semseg and mmseg count it."""
    _, height, width = image.shape
    sums, counts = None, np.zeros((height, width))
    for row in range(math.ceil(max(height - crop[0], 0) / stride[0]) + 1):
        for column in range(math.ceil(max(width - crop[1], 0) / stride[1]) + 1):
            bottom, right = min(row * stride[0] + crop[0], height), min(column * stride[1] + crop[1], width)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            scores = function(image[:, top:bottom, left:right])
            sums = np.zeros((len(scores), height, width)) if sums is None else sums
            sums[:, top:bottom, left:right] += scores
            counts[top:bottom, left:right] += 1
    assert counts.min() >= 1
    return sums / counts


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def slow_mmseg(net, image, scales, flip, crop, stride, align_corners):
    _, height, width = image.shape
    probabilities = []
    for scale in scales:
        scaled = slow_resize(image, int(height * scale + 0.5), int(width * scale + 0.5))
        for mirrored in [False, True] if flip else [False]:
            seen = scaled[:, :, ::-1] if mirrored else scaled
            logits = slow_resize(slow_windows(net, seen, crop, stride), height, width, align_corners)
            probabilities.append(softmax(logits[:, :, ::-1] if mirrored else logits))
    return sum(probabilities) / len(probabilities)


def slow_semseg(net, image, scales, flip, crop, stride, align_corners):
    def of_window(window):
        mirrored = softmax(net(window[:, :, ::-1]))[:, :, ::-1]
        return (softmax(net(window)) + mirrored) / 2 if flip else softmax(net(window))

    _, height, width = image.shape
    total = 0
    for scale in scales:
        scaled = slow_resize(image, int(height * scale + 0.5), int(width * scale + 0.5))
        _, high, wide = scaled.shape
        canvas = np.zeros((3, max(high, crop[0]), max(wide, crop[1])))
        top, left = (canvas.shape[1] - high) // 2, (canvas.shape[2] - wide) // 2
        canvas[:, top : top + high, left : left + wide] = scaled
        scores = slow_windows(of_window, canvas, crop, stride)[:, top : top + high, left : left + wide]
        total += slow_resize(scores, height, width, align_corners)
    return total / len(scales)


@pytest.mark.parametrize("merging", ["mmseg", "semseg"])
@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((24, 36), (12, 12), (6, 6)),  # divides
        ((23, 37), (12, 17), (8, 11)),  # does not
        ((9, 11), (16, 16), (11, 11)),  # smaller than the window
        ((9, 31), (16, 12), (16, 12)),  # smaller in one direction, no overlap
        ((1, 1), (3, 3), (1, 1)),
        ((13, 7), (1, 7), (1, 7)),
    ],
)
@pytest.mark.parametrize(
    ("scales", "flip", "align_corners"), [((1.0,), False, False), ((1.0,), True, False), ((0.5, 1.0, 1.75), True, True)]
)
def test_protocols_are_the_slow_reference(convolution, merging, size, crop, stride, scales, flip, align_corners):
    protocol = InferenceProtocol(
        source="test", scales=scales, flip=flip, crop=crop, stride=stride, merging=merging, align_corners=align_corners
    )
    x = torch.randn(1, 3, *size)

    def net(window):
        return convolution(torch.from_numpy(window.copy())[None])[0].detach().numpy()

    slow = slow_mmseg if merging == "mmseg" else slow_semseg
    expected = slow(net, x[0].double().numpy(), scales, flip, crop, stride, align_corners)
    scores = segment(convolution, x, protocol)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.softmax(dim=1)[0].numpy(), expected, atol=2e-5)
    if merging == "semseg" or len(scales) > 1 or flip:
        np.testing.assert_allclose(scores.exp()[0].numpy(), expected, atol=2e-5)


@st.composite
def windows(draw):
    """An image's size, a window and a stride that leaves no gaps."""
    size, crop = (draw(st.tuples(st.integers(1, 30), st.integers(1, 30))) for _ in range(2))
    stride = draw(st.tuples(st.integers(1, crop[0]), st.integers(1, crop[1])))
    return size, crop, stride


@given(windows=windows())
def test_windows_of_any_size_cover_every_pixel_as_the_slow_reference(windows):
    size, crop, stride = windows

    def net(window):  # its score of a pixel depends on where its window begins
        return window.cumsum(-1) + 2 * window.cumsum(-2)

    x = torch.randn(1, 2, *size, dtype=torch.float64)
    found = sliding_window(net, x, crop, stride)
    slow = slow_windows(lambda w: net(torch.from_numpy(w.copy())).numpy(), x[0].numpy(), crop, stride)
    np.testing.assert_allclose(found[0].numpy(), slow, atol=1e-4)


def test_each_rule_differs_from_the_other(convolution):
    x = torch.randn(1, 3, 23, 37)
    one, other = (
        segment(convolution, x, InferenceProtocol(source="test", flip=True, crop=(12, 17), stride=(8, 11), merging=merging))
        for merging in ("mmseg", "semseg")
    )
    assert (one.softmax(1) - other.softmax(1)).abs().max() > 0.01


def test_a_whole_image_gives_the_networks_own_logits(convolution):
    x = torch.randn(2, 3, 9, 14)
    scores = segment(convolution, x, PROTOCOLS["whole"])
    torch.testing.assert_close(scores, convolution(x).detach().float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("size", [(40, 80), (33, 65), (81, 37)])
def test_a_constant_network_gives_a_constant(name, size):
    protocol = PROTOCOLS[name]
    if protocol.within and protocol.crop and protocol.stride:  # a sixteenth of the numbers, for speed
        within, crop, stride = ((n[0] // 16, n[1] // 16) for n in (protocol.within, protocol.crop, protocol.stride))
        protocol = replace(protocol, within=within, crop=crop, stride=stride)
    logits = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1)
    scores = segment(lambda x: logits.expand(len(x), 3, *x.shape[-2:]), torch.randn(2, 3, *size), protocol)
    assert scores.shape == (2, 3, *size)
    torch.testing.assert_close(scores.log_softmax(dim=1), logits.log_softmax(dim=1).expand_as(scores), rtol=0, atol=1e-5)


def test_images_of_a_batch_are_segmented_as_if_alone(convolution):
    x = torch.randn(3, 3, 20, 31)
    protocol = InferenceProtocol(source="test", flip=True, crop=(12, 17), stride=(8, 11))
    together = segment(convolution, x, protocol)
    torch.testing.assert_close(together, torch.cat([segment(convolution, one[None], protocol) for one in x]))


def test_windows_come_one_by_one_at_their_size():
    shapes = []

    def net(x):
        shapes.append(tuple(x.shape))
        return x

    sliding_window(net, torch.zeros(2, 3, 30, 40), (16, 20), (8, 10))
    segment(net, torch.zeros(2, 3, 30, 40), InferenceProtocol(source="test", crop=(16, 20), stride=(8, 10)))
    assert shapes == [(2, 3, 16, 20)] * 18


@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_without_windows_nothing_is_padded(size):
    shapes = []
    x = torch.zeros(1, 3, *size)
    segment(lambda x: (shapes.append(x.shape), x)[1], x, InferenceProtocol(source="test", merging="semseg"))
    assert shapes == [x.shape]


def test_impossible_logits_stay_finite():
    certain = torch.tensor([0.0, -1e4, -1e4]).view(1, 3, 1, 1)
    scores = segment(lambda x: certain.expand(len(x), 3, *x.shape[-2:]), torch.zeros(1, 3, 8, 8), PROTOCOLS["whole_ms"])
    assert scores.isfinite().all() and scores[0, 1].max() < -80


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [
        ("whole", (1024, 2048), [(1024, 2048)]),
        ("mmseg_slide", (1024, 2048), [(1025, 2049)]),  # mmseg says 2049x1025
        ("mmseg_slide", (1024, 1024), [(1025, 1025)]),
        ("semseg", (1024, 2048), [(1024, 2048)]),
        ("semseg", (360, 480), [(1536, 2048)]),
        ("semseg", (480, 360), [(2048, 1536)]),
        ("semseg_ms", (1024, 2048), [(512, 1024), (768, 1536), (1024, 2048), (1280, 2560), (1536, 3072), (1792, 3584)]),
        ("whole_ms", (33, 65), [(17, 33), (25, 49), (33, 65), (41, 81), (50, 98), (58, 114)]),
    ],
)
def test_images_are_resized_as_published(name, size, sizes):
    assert PROTOCOLS[name].sizes(*size) == sizes


@pytest.mark.parametrize(("crop", "size", "windows"), [((713, 713), (1024, 2048), 8), ((769, 769), (1025, 2049), 8)])
def test_cityscapes_takes_as_many_windows_as_published(crop, size, windows):
    stride = next(p.stride for p in PROTOCOLS.values() if p.crop == crop)
    seen = []
    sliding_window(lambda x: (seen.append(x.shape), x[:, :1])[1], torch.zeros(1, 3, *size), crop, stride)
    assert len(seen) == windows


MMSEG, SEMSEG = "windows of 769x769, stride 513x513, resized to fit 2049x1025", "windows of 713x713, stride 476x476"
SEMSEG += ", resized to fit 2048x2048, probabilities averaged"
SCALES = "scales 0.5, 0.75, 1, 1.25, 1.5, 1.75"


def test_a_protocol_says_all_its_published_numbers():
    assert {name: str(protocol) for name, protocol in PROTOCOLS.items()} == {
        "whole": "whole image, single scale, no flip",
        "whole_ms": f"whole image, {SCALES}, flip",
        "mmseg_slide": f"{MMSEG}, single scale, no flip",
        "mmseg_slide_ms": f"{MMSEG}, {SCALES}, flip",
        "tiles": "windows of 512x512, stride 384x384, single scale, no flip",
        "semseg": f"{SEMSEG}, single scale, flip",
        "semseg_ms": f"{SEMSEG}, {SCALES}, flip",
    }
    assert [name for name, protocol in PROTOCOLS.items() if protocol.align_corners] == ["mmseg_slide", "mmseg_slide_ms"]
    assert all(protocol.source for protocol in PROTOCOLS.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scales": ()}, "one or more positive numbers"),
        ({"scales": (1.0, 0.0)}, "one or more positive numbers"),
        ({"within": (512, 1024)}, "the long side and the short side"),
        ({"within": (512, 0)}, "the long side and the short side"),
        ({"crop": (64, 64)}, "give both, or neither"),
        ({"crop": (64, 64), "stride": (64, 65)}, "or gaps are left"),
        ({"crop": (64, 64), "stride": (0, 64)}, "or gaps are left"),
    ],
)
def test_protocols_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        InferenceProtocol(source="test", **fields)
    assert InferenceProtocol(source="test", within=(1, 1), crop=(1, 1), stride=(1, 1)).sizes(9, 9) == [(1, 1)]


@pytest.mark.parametrize("crop", [None, (8, 8)])
def test_a_network_that_shrinks_is_refused(crop):
    protocol = InferenceProtocol(source="test", crop=crop, stride=crop)
    with pytest.raises(ValueError, match="height and width must be the same"):
        segment(lambda x: F.avg_pool2d(x, 2), torch.zeros(1, 3, 16, 16), protocol)


def test_windows_that_leave_gaps_are_refused():
    with pytest.raises(ValueError, match="or gaps are left"):
        sliding_window(lambda x: x, torch.zeros(1, 3, 8, 8), (8, 8), (8, 9))
