"""Twins with stride 1 against the operations themselves, at any size; whole networks are in test_dilated.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import AvgPool2dSame, BlurPool2d, Conv2dSame
from timm.layers.padding import get_same_padding
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn

from pspnet_zoo.models.dilated_layers import Taps, _same_padding, dilated_equivalent

SIZES = st.tuples(st.integers(5, 24), st.integers(5, 24))
STRIDES = RATES = st.integers(1, 4)


@st.composite
def windows(draw) -> tuple[int, int, int]:
    """Kernel, stride, and as much padding as keeps the centre of a window on the map."""
    kernel = draw(st.integers(1, 5))
    return kernel, draw(STRIDES), draw(st.integers(0, (kernel - 1) // 2))


@st.composite
def pools(draw) -> tuple[int, int, int, bool]:
    """Kernel, stride, padding and `ceil_mode`; no encoder has both of these."""
    kernel, stride, padding = draw(windows())
    return kernel, stride, padding, padding == 0 and draw(st.booleans())


def check(operation: nn.Module, rate: int, size: tuple[int, int]) -> None:
    """On a map `rate` times denser the twin gives what the operation gives of every `rate`-th row and column."""
    sparse = torch.randn(2, 3, *size, dtype=torch.float64)
    x = torch.randn(2, 3, *(rate * (side - 1) + 1 for side in size), dtype=torch.float64)
    x[..., ::rate, ::rate] = sparse
    operation = operation.double()
    expected = operation(sparse)
    step = rate * Taps.of(operation).stride[0]
    dense = dilated_equivalent("it", operation, rate, "atrous")(x)[..., ::step, ::step]
    assert dense.shape[-2] >= expected.shape[-2] and dense.shape[-1] >= expected.shape[-1]
    torch.testing.assert_close(dense[..., : expected.shape[-2], : expected.shape[-1]], expected)


@given(pool=pools(), rate=RATES, size=SIZES, dilation=st.integers(1, 2))
def test_maxima_are_those_of_the_sparse_map(pool, rate, size, dilation):
    kernel, stride, padding, rounds_up = pool
    if dilation * (kernel - 1) < min(size):
        check(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=rounds_up), rate, size)


@given(pool=pools(), rate=RATES, size=SIZES, counts_padding=st.booleans())
def test_means_are_those_of_the_sparse_map(pool, rate, size, counts_padding):
    kernel, stride, padding, rounds_up = pool
    check(nn.AvgPool2d(kernel, stride, padding, rounds_up, counts_padding), rate, size)


@given(window=windows(), rate=RATES, size=SIZES, dilation=st.integers(1, 2), bias=st.booleans(), depthwise=st.booleans())
def test_convolutions_are_those_of_the_sparse_map(window, rate, size, dilation, bias, depthwise):
    kernel, stride, padding = window
    if dilation * (kernel - 1) < min(size):
        groups = 3 if depthwise else 1
        check(nn.Conv2d(3, 6, kernel, stride, padding * dilation, dilation, groups, bias), rate, size)


@pytest.mark.parametrize("kind", [Conv2dSame, AvgPool2dSame, MaxPool2dSame])
@given(kernel=st.integers(1, 5), stride=STRIDES, rate=RATES, size=SIZES, dilation=st.integers(1, 2))
def test_tensorflows_padding_is_that_of_the_sparse_map(kind, kernel, stride, rate, size, dilation):
    check(Conv2dSame(3, 6, kernel, stride, dilation=dilation) if kind is Conv2dSame else kind(kernel, stride), rate, size)


@pytest.mark.parametrize("border", ["reflect", "constant"])
@given(filter_size=st.integers(3, 5), stride=st.integers(1, 3), rate=RATES, size=SIZES)
def test_blurs_are_those_of_the_sparse_map(border, filter_size, stride, rate, size):
    check(BlurPool2d(3, filter_size, stride, border), rate, size)


@given(size=st.integers(1, 300), kernel=st.integers(1, 9), stride=st.integers(1, 5), dilation=st.integers(1, 4))
def test_same_padding_is_that_of_timm(size, kernel, stride, dilation):
    assert _same_padding(size, kernel, stride, dilation) == get_same_padding(size, kernel, stride, dilation)


UNKNOWN = [nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), BlurPool2d(3, pad_mode="replicate"), nn.LPPool2d(2, 2)]


@pytest.mark.parametrize("operation", UNKNOWN)
def test_what_has_no_twin_is_refused(operation):
    with pytest.raises(ValueError, match="'layer9' needs the dilation 2, which cannot be given to a "):
        dilated_equivalent("layer9", operation, 2, "atrous")
