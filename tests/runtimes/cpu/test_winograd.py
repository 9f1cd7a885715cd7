import pytest
import torch
from torch.nn import functional as F

from pspnet_zoo.runtimes.cpu.winograd import Workspace, winograd_conv2d


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "count, channels, outputs, height, width, dilation",
    [
        (1, 8, 5, 16, 32, 1),
        (2, 16, 8, 33, 17, 2),  # odd sizes, a batch
        (1, 4, 4, 1, 5, 1),  # one row
        (1, 4, 4, 1, 1, 8),  # smaller than a tile and than the dilation
        (1, 1, 1, 4, 4, 3),
        (3, 32, 16, 13, 50, 8),
        (1, 300, 20, 65, 129, 4),
        (2, 3, 2, 5, 1, 5),
        (1, 2, 2, 3, 700, 1),  # more tiles in a row than are transformed at once
        (1, 6, 3, 29, 31, 6),
        (1, 6, 3, 40, 21, 7),
    ],
)
def test_it_equals_torch_in_double_precision(count, channels, outputs, height, width, dilation, memory_format):
    x = torch.randn(count, channels, height, width).contiguous(memory_format=memory_format)
    weight, bias = torch.randn(outputs, channels, 3, 3).contiguous(memory_format=memory_format), torch.randn(outputs)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), padding=dilation, dilation=dilation)
    found = winograd_conv2d(x, weight, bias, dilation=dilation)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 3e-5 * wanted.abs().max()


def test_it_needs_no_bias():
    x, weight = torch.randn(1, 3, 9, 9), torch.randn(4, 3, 3, 3)
    assert torch.allclose(winograd_conv2d(x, weight), F.conv2d(x, weight, padding=1), atol=1e-4)


def test_a_norm_can_be_in_it():
    x, weight, scale, bias = torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3), torch.randn(4), torch.randn(4)
    wanted = F.conv2d(x, weight * scale[:, None, None, None], bias, padding=1)
    assert torch.allclose(winograd_conv2d(x, weight, bias, scale=scale), wanted, atol=1e-4)


def test_one_workspace_serves_layers_of_any_size_in_and_out_of_inference_mode():
    workspace = Workspace()
    for channels, outputs, side in ((3, 4, 9), (8, 5, 20), (2, 2, 5)):
        x, weight = torch.randn(1, channels, side, side), torch.randn(outputs, channels, 3, 3)
        with torch.inference_mode(side == 9):
            found = winograd_conv2d(x, weight, workspace=workspace)
        assert torch.allclose(found, F.conv2d(x, weight, padding=1), atol=1e-4)
