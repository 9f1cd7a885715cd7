"""Resizing to pixels, the three heads, and their first weights."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pspnet_zoo.models.heads import AuxiliaryHead, ClassificationHead, Resize, SegmentationHead, initialize, make_activation
from pspnet_zoo.models.pyramid import BatchNorm2d

SIDES = st.integers(1, 9)


@given(cells=SIDES, size=st.integers(1, 60), scale=st.integers(1, 8), offset=st.integers(0, 7))
def test_cells_lie_where_the_encoder_saw_them_and_the_outer_ones_are_repeated(cells, size, scale, offset):
    x = torch.randn(cells, dtype=torch.float64)
    expected = torch.from_numpy(np.interp(np.arange(size), offset + scale * np.arange(cells), x.numpy()))
    resize = Resize(scale, align_corners=None)
    rows = resize(x.view(1, 1, cells, 1), (size, 3), (offset, 0))
    torch.testing.assert_close(rows, expected.view(1, 1, size, 1).expand(1, 1, size, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(resize(x.view(1, 1, 1, cells), (3, size), (0, offset)), rows.mT, rtol=0, atol=0)


@given(cells=st.tuples(SIDES, SIDES), size=st.tuples(st.integers(1, 60), st.integers(1, 60)), align_corners=st.booleans())
def test_stretched_cells_are_torchs(cells, size, align_corners):
    x = torch.randn(2, 3, *cells)
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    assert torch.equal(Resize(8, align_corners=align_corners)(x, size, (3, 4)), expected)


@pytest.mark.parametrize("align_corners", [True, False, None])
def test_without_a_size_each_side_is_multiplied(align_corners):
    x = torch.randn(1, 2, 3, 5)
    resize = Resize(4, align_corners=align_corners)
    torch.testing.assert_close(resize(x), resize(x, (12, 20)))
    assert resize(x).shape == (1, 2, 12, 20)


def test_positions_are_exact_in_half_precision():
    half = Resize(8, align_corners=None)(torch.arange(300.0).half().view(1, 1, 1, 300), (1, 2400))
    assert half.dtype == torch.float16 and (half[0, 0, 0, ::8] == torch.arange(300)).all()


def test_a_segmentation_head_classifies_resizes_and_activates():
    head = SegmentationHead(3, 2, activation="sigmoid", scale=8, align_corners=None)
    x = torch.randn(1, 3, 4, 5)
    expected = head[1](head[0](x), (20, 30), (1, 2)).sigmoid()
    torch.testing.assert_close(head(x, (20, 30), (1, 2)), expected)
    torch.testing.assert_close(head(x), head[1](head[0](x), (32, 40), (0, 0)).sigmoid())
    assert head[0].kernel_size == (1, 1)


@pytest.mark.parametrize(("channels", "width", "expected"), [(8, None, 2), (3, None, 1), (8, 5, 5)])
def test_an_auxiliary_head_has_a_convolution_of_its_own(channels, width, expected):
    head = AuxiliaryHead(channels, 7, width=width, norm=BatchNorm2d, dropout=0.25, scale=8, align_corners=False)
    convolution, norm, relu, dropout, classifier = head[0]
    assert convolution.weight.shape == (expected, channels, 3, 3) and classifier.weight.shape == (7, expected, 1, 1)
    assert isinstance(norm, BatchNorm2d) and isinstance(relu, nn.ReLU) and dropout.p == 0.25
    x = torch.randn(2, channels, 4, 5)
    head.eval()
    torch.testing.assert_close(head(x, (9, 11)), F.interpolate(head[0](x), (9, 11), mode="bilinear"))


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_a_classification_head_pools_the_whole_map(pooling):
    head = ClassificationHead(3, 2, pooling, activation="softmax").eval()
    x = torch.randn(4, 3, 5, 6)
    pooled = x.mean((2, 3)) if pooling == "avg" else x.amax((2, 3))
    torch.testing.assert_close(head(x), head[3](pooled).softmax(1))


def test_a_classification_head_is_smps_unless_asked_otherwise():
    head = ClassificationHead(3, 2)
    assert isinstance(head[0], nn.AdaptiveAvgPool2d) and head[2].p == 0.2 and isinstance(head[4].activation, nn.Identity)
    assert isinstance(ClassificationHead(3, 2, dropout=0)[2], nn.Identity)
    with pytest.raises(ValueError, match="pooling is 'mean'; it can be 'avg' or 'max'"):
        ClassificationHead(3, 2, "mean")


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("sigmoid", torch.sigmoid),
        ("softmax2d", lambda x: x.softmax(1)),
        ("softmax", lambda x: x.softmax(1)),
        ("logsoftmax", lambda x: x.log_softmax(1)),
        ("tanh", torch.tanh),
        ("argmax2d", lambda x: x.argmax(1)),
        ("clamp", lambda x: x.clamp(0, 1)),
        ("argmax", lambda x: x.argmax(1)),
        ("identity", lambda x: x),
        (None, lambda x: x),
        (nn.Sigmoid, torch.sigmoid),
    ],
)
def test_activations_of_smp(activation, expected):
    x = 3 * torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(make_activation(activation)(x), expected(x))


def test_an_unknown_activation_is_quoted():
    with pytest.raises(ValueError, match="activation is 'swish'"):
        make_activation("swish")


def test_fresh_weights_are_smps():
    """Uniform within sqrt(6 / (in + out)) for what gives the output, sqrt(6 / in) for the convolutions before it."""
    width = 64
    convolution, pointwise, norm = nn.Conv2d(width, width, 3), nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)
    classifier, linear = nn.Conv2d(width, 32, 1), nn.Linear(width, 32)
    bounds = {convolution: 9 * width, pointwise: width, classifier: width + 32, linear: width + 32}
    part = nn.Sequential(convolution, pointwise, norm, classifier, linear)
    for parameter in (*part.parameters(), norm.running_mean, norm.running_var):
        parameter.data.fill_(7)
    initialize(part)
    for layer, fan in bounds.items():
        assert layer.weight.abs().max().item() == pytest.approx((6 / fan) ** 0.5, rel=0.01), layer
        assert layer.bias is None or not layer.bias.any()
    assert [t.unique().tolist() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)] == [[1], [0], [0], [1]]
