"""Fast depthwise convolutions against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pspnet_zoo import create
from pspnet_zoo.runtimes.cpu.depthwise import FastDepthwise, depthwise_conv2d


def output_and_gradients(convolve, *inputs: torch.Tensor) -> list[torch.Tensor]:
    inputs = tuple(t.clone().requires_grad_() for t in inputs)
    out = convolve(*inputs)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)).sum().backward()
    return [out.detach(), *(t.grad for t in inputs)]


@pytest.mark.parametrize("size", [(16, 24), (31, 45), (17, 9), (1, 1)])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("kernel", [3, 5])
def test_outputs_and_gradients_are_torchs(kernel, dilation, padded, size):
    padding = kernel // 2 if padded else 0
    if not padded:
        size = tuple(side + dilation * (kernel - 1) for side in size)
    x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(6, 1, kernel, kernel, dtype=torch.float64)
    fast = output_and_gradients(lambda x, w: depthwise_conv2d(x, w, padding, dilation), x, weight)
    expected = output_and_gradients(lambda x, w: F.conv2d(x, w, None, 1, padding * dilation, dilation, 6), x, weight)
    for a, b in zip(fast, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_frozen_weight_or_input_gets_no_gradient():
    x, weight = torch.randn(1, 4, 9, 9), torch.randn(4, 1, 5, 5)
    learning = x.clone().requires_grad_(), weight.clone().requires_grad_()
    depthwise_conv2d(learning[0], weight, 2, 2).sum().backward()
    depthwise_conv2d(x, learning[1], 2, 2).sum().backward()
    assert x.grad is None and weight.grad is None
    assert all(t.grad is not None for t in learning)


def test_autocast_gives_its_type_and_gradients_of_the_weights_own():
    x, weight = torch.randn(1, 4, 9, 9), torch.randn(4, 1, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise_conv2d(x, weight, 2, 2)
        expected = F.conv2d(x, weight, None, 1, 4, 2, 4)
    assert out.dtype == torch.bfloat16 and torch.equal(out, expected)
    out.float().sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("layer", "is_fast"),
    [
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), True),
        (nn.Conv2d(4, 4, 5, groups=4, bias=False), True),
        (nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=4), False),
        (nn.Conv2d(4, 4, 3, padding="same", groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4), False),
        (nn.Conv2d(4, 4, (3, 5), padding=(1, 2), groups=4), False),
        (nn.Conv2d(4, 4, 7, padding=3, groups=4), False),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), False),
        (nn.Conv2d(4, 4, 3, padding=1), False),
    ],
)
def test_the_mode_takes_what_it_can_and_changes_no_result(layer, is_fast):
    x = torch.randn(2, 4, 13, 14)
    expected = layer(x)
    with FastDepthwise():
        out = layer(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert ("_Depthwise" in _operations(out)) == is_fast


def test_the_mode_takes_whole_numbers_for_pairs():
    x, weight = torch.randn(2, 4, 13, 14), torch.randn(4, 1, 3, 3, requires_grad=True)
    expected = F.conv2d(x, weight, None, 1, 2, 2, 4)
    with FastDepthwise():
        out = F.conv2d(x, weight, None, 1, 2, 2, 4)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert "_Depthwise" in _operations(out)


def _operations(tensor: torch.Tensor) -> str:
    """The names of the last two steps that made it: a bias is added after."""
    last = tensor.grad_fn
    assert last is not None
    return " ".join(f.name() for f, _ in [(last, 0), *last.next_functions] if f)


def test_a_network_learns_the_same_under_the_mode():
    torch.manual_seed(0)
    net = create("pspnet_lite0", classes=3).to(torch.float64).eval()  # no noise of small batches' statistics
    x = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    results = []
    for mode in (FastDepthwise(), torch.enable_grad()):
        net.zero_grad()
        with mode:
            out = net(x)
        out.square().mean().backward()
        results.append([out.detach(), *(p.grad.clone() for p in net.parameters())])
    for fast, expected in zip(*results, strict=True):
        torch.testing.assert_close(fast, expected, rtol=1e-6, atol=1e-9)
