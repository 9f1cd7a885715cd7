"""The factored pyramid against the textbook form, and pooling and resizing against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pspnet_zoo.models.pyramid import BINS, BatchNorm2d, PyramidPooling, pooling_matrix, resize_matrix
from tests.models.textbook import textbook


def outputs_and_gradients(forward, pyramid: PyramidPooling, x: torch.Tensor):
    x = x.clone().requires_grad_()
    pyramid.zero_grad()
    out = forward(x)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).mean().mul(out.numel() ** 0.5).backward()
    return [out.detach(), x.grad, *[p.grad.clone() for p in pyramid.parameters()]]


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


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 12, 60, 90, 97, 128])
@pytest.mark.parametrize("cells", BINS)
def test_pooling_matrix_is_adaptive_average_pooling(cells, size):
    x = torch.randn(1, 1, size, dtype=torch.float64)
    expected = F.adaptive_avg_pool1d(x, cells)
    torch.testing.assert_close(x @ pooling_matrix(cells, size, x).T, expected)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 90, 128])
@pytest.mark.parametrize("cells", BINS)
def test_resize_matrix_is_torchs_interpolation(cells, size, align_corners):
    x = torch.randn(1, 1, cells)
    expected = F.interpolate(x, size=size, mode="linear", align_corners=align_corners)
    torch.testing.assert_close(x @ resize_matrix(cells, size, align_corners, x).T, expected, rtol=0, atol=1e-5)


def test_batch_norm_trains_one_value_with_running_statistics_and_says_so():
    norm = BatchNorm2d(3).train()
    norm.running_mean.fill_(1.0)
    with pytest.warns(UserWarning, match="running statistics"):
        out = norm(torch.full((1, 3, 1, 1), 2.0))
    torch.testing.assert_close(out, torch.ones(1, 3, 1, 1), rtol=0, atol=1e-4)
    assert norm.running_mean.tolist() == [1.0] * 3


def test_batch_norm_of_several_values_is_torchs():
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
