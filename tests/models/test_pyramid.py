"""The factored pyramid against the textbook form, and pooling and resizing against torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pspnet_zoo.models.pyramid import BatchNorm2d, PyramidPooling, conv_norm_relu, pool, pooling_matrix, resize_matrix
from tests.models.textbook import textbook


def outputs_and_gradients(forward, pyramid: PyramidPooling, x: torch.Tensor):
    x = x.clone().requires_grad_()
    pyramid.zero_grad()
    out = forward(x)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).mean().mul(out.numel() ** 0.5).backward()
    return [out.detach(), x.grad, *[p.grad.clone() for p in pyramid.parameters()]]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooling_is_the_same_in_any_order_of_memory(memory_format):
    x, rows, columns = torch.randn(2, 3, 5, 7), torch.randn(4, 5), torch.randn(6, 7)
    found = pool(x.contiguous(memory_format=memory_format), rows, columns)
    torch.testing.assert_close(found, torch.einsum("rh,nchw,sw->ncrs", rows, x, columns), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:A training batch of one:UserWarning")
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (12, 12), (64, 128), (90, 90)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_factored_form_gives_outputs_and_gradients_of_the_textbook(size, batch, align_corners, training):
    pyramid = PyramidPooling(10, 6, norm=BatchNorm2d, align_corners=align_corners).train(training)
    for module in pyramid.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(batch, 10, *size)
    factored = outputs_and_gradients(pyramid, pyramid, x)
    expected = outputs_and_gradients(lambda x: textbook(pyramid, x), pyramid, x)
    for a, b in zip(factored, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("use_norm", [True, False])
def test_channels_that_four_does_not_divide_work(use_norm):
    pyramid = PyramidPooling(7, 5, norm=BatchNorm2d if use_norm else None).eval()
    x = torch.randn(2, 7, 9, 11)
    torch.testing.assert_close(pyramid(x), textbook(pyramid, x), rtol=0, atol=1e-5)


@given(cells=st.integers(1, 9), size=st.integers(1, 200))
def test_pooling_matrix_is_adaptive_average_pooling(cells, size):
    x = torch.randn(1, 1, size, dtype=torch.float64)
    expected = F.adaptive_avg_pool1d(x, cells)
    torch.testing.assert_close(x @ pooling_matrix(cells, size, x).T, expected)


@given(cells=st.integers(1, 9), size=st.integers(1, 200), align_corners=st.booleans())
def test_resize_matrix_is_torchs_interpolation(cells, size, align_corners):
    x = torch.randn(1, 1, cells, dtype=torch.float64)
    expected = F.interpolate(x, size=size, mode="linear", align_corners=align_corners)
    torch.testing.assert_close(x @ resize_matrix(cells, size, align_corners, x).T, expected, rtol=0, atol=1e-5)


def test_matrices_have_the_type_of_the_map():
    half = torch.zeros(1, dtype=torch.float16)
    assert pooling_matrix(2, 5, half).dtype == resize_matrix(2, 5, True, half).dtype == torch.float16
    places = torch.arange(2049.0)  # that half precision could not count
    last = resize_matrix(3, 2049, True, half)[:, 2].float()
    torch.testing.assert_close(last, (places / 1024 - 1).clamp(min=0), rtol=0, atol=1e-3)


def test_it_is_the_papers_unless_asked_otherwise():
    pyramid = PyramidPooling(40, 7, norm=BatchNorm2d)
    assert pyramid.bins == (1, 2, 3, 6) and pyramid.align_corners
    assert [branch[0].weight.shape for branch in pyramid.branches] == [(10, 40, 1, 1)] * 4
    assert pyramid.fuse[0].weight.shape == (7, 80, 3, 3)
    assert [branch[0].weight.shape[0] for branch in PyramidPooling(3, 7, norm=None).branches] == [1] * 4
    assert [branch[0].weight.shape[0] for branch in PyramidPooling(40, 7, norm=None, bin_channels=4).branches] == [4] * 4


@pytest.mark.parametrize("norm", [BatchNorm2d, None])
def test_convolutions_have_a_bias_where_no_norm_follows(norm):
    convolution, after, relu = conv_norm_relu(3, 4, 3, norm)
    assert (convolution.bias is None) == (norm is not None) and isinstance(relu, nn.ReLU)
    assert isinstance(after, nn.Identity if norm is None else norm) and convolution.padding == (1, 1)


def test_batch_norm_trains_one_value_with_running_statistics_and_says_so():
    norm = BatchNorm2d(3, eps=3.0).train()
    norm.running_mean.fill_(1.0)
    with pytest.warns(UserWarning, match="running statistics"):
        out = norm(torch.full((1, 3, 1, 1), 2.0))
    torch.testing.assert_close(out, torch.full((1, 3, 1, 1), 0.5))  # (2 - 1) / sqrt(1 + eps)
    assert norm.running_mean.tolist() == [1.0] * 3


@pytest.mark.parametrize("size", [(2, 3, 4, 5), (1, 3, 3, 3), (1, 3, 4, 1), (1, 3, 1, 4), (2, 3, 2, 1), (2, 3, 1, 2), (2, 3, 1, 1)])
def test_batch_norm_of_several_values_is_torchs(size):
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(size)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
