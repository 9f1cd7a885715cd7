import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pspnet_zoo import PSPNet
from pspnet_zoo.runtimes.cpu.grids import OnGrids, from_grids, to_grids, use_grids
from pspnet_zoo.runtimes.torch import TorchRuntime


@pytest.mark.parametrize("rate", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(8, 12), (9, 13), (1, 5), (3, 3)])
def test_grids_hold_every_rate_th_row_and_column(rate, size):
    x = torch.randn(2, 3, *size)
    grids = to_grids(x, rate)
    for row in range(rate):
        for column in range(rate):
            some = x[1, :, row::rate, column::rate]
            grid = grids[rate * rate + row * rate + column]
            assert torch.equal(grid[:, : some.shape[1], : some.shape[2]], some)
            assert grid.sum() == pytest.approx(some.sum().item(), abs=1e-4)  # zeros beyond
    assert torch.equal(from_grids(grids, rate, *size), x)


class Block(nn.Module):
    """An inverted residual block, as timm's."""

    def __init__(self, kernel: int = 5, rate: int = 3, between: nn.Module | None = None) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, kernel, padding=rate * (kernel // 2), dilation=rate, groups=8)
        self.between = between or nn.ReLU6(inplace=True)
        self.project = nn.Conv2d(8, 4, 1)
        self.norm.running_mean.normal_(), self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.project(self.between(self.depthwise(F.relu6(self.norm(self.expand(x)))))) + x


class Gate(nn.Module):
    """Reads the whole feature map, as squeeze and excitation does."""

    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True)


class Position(nn.Module):
    """Depends on where a value lies, but only once its weight is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, x):
        return x + self.weight * x.cumsum(-1)


class OwnConvolution(nn.Module):
    """A convolution that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 1, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1, groups=8)


CASES = {
    "a convolution that is no module": (nn.Sequential(Block(between=OwnConvolution())), ["0.depthwise"]),
    "statistics of the image": (nn.Sequential(Block(between=nn.BatchNorm2d(8, track_running_stats=False))), ["0.depthwise"]),
    "a block": (nn.Sequential(Block(), Block(rate=2), Block(7, 4)), ["0", "1", "2"]),
    "narrow kernels gain nothing": (nn.Sequential(Block(3)), []),
    "undilated": (nn.Sequential(Block(rate=1)), []),
    "a mean over the image": (nn.Sequential(Block(between=Gate())), ["0.depthwise"]),
    "positions with a weight of zero": (nn.Sequential(Block(between=Position())), ["0.depthwise"]),
    "two dilations in a block": (nn.Sequential(nn.Sequential(Block(rate=2), nn.Conv2d(4, 4, 3, padding=3, dilation=3))), ["0.0"]),
    "a stride in the block": (nn.Sequential(nn.Sequential(*Block(between=nn.MaxPool2d(2)).children())), ["0.2"]),
    "padding in the block": (nn.Sequential(Block(between=nn.ZeroPad2d(0))), ["0.depthwise"]),
    "another padding": (nn.Sequential(nn.Conv2d(4, 4, 5, padding=8, dilation=2, groups=4)), []),
    "no sequence around it": (Block(), ["depthwise"]),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_before_at_any_size(case):
    network, places = copy.deepcopy(CASES[case])
    moved = copy.deepcopy(network.eval())
    assert use_grids(moved) == len(places)
    assert [name for name, module in moved.named_modules() if isinstance(module, OnGrids)] == places
    for p in moved.parameters():  # weights count as they are at the time
        p.data.copy_(torch.randn_like(p))
    own = {name.replace("block.", ""): value for name, value in moved.state_dict().items()}
    network.load_state_dict(own)
    for shape in ((2, 4, 24, 36), (1, 4, 25, 31), (2, 4, 2, 3), (1, 4, 2, 40)):
        x = torch.randn(shape)
        wanted = network(x)
        assert (moved(x) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_a_layer_with_a_hook_is_left():
    """The hook would get and give grids."""
    for hooked in (lambda block: block.depthwise, lambda block: block.norm, lambda block: block):
        network = nn.Sequential(Block()).eval()
        hooked(network[0]).register_forward_hook(lambda layer, inputs, output: output.flip(-1))
        moved = copy.deepcopy(network)
        use_grids(moved)
        x = torch.randn(1, 4, 10, 11)
        assert torch.allclose(moved(x), network(x), atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "places"), [("tf_efficientnet_lite0", 6), ("mobilenetv3_large_100", 3), ("convnext_atto", 8), ("resnet18", 0)]
)
def test_the_runtime_uses_grids_where_they_pay(encoder, places):
    """Fails on the day that timm calls its layers in another way: the network would run, but slowly."""
    network = PSPNet(encoder, None, classes=3, psp_out_channels=16).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    runtime, x = TorchRuntime(network), torch.randn(1, 3, 97, 129)
    with torch.inference_mode():
        wanted = network(x)
        assert (runtime(x) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    moved = copy.deepcopy(network)
    assert use_grids(moved) == places
    if encoder == "tf_efficientnet_lite0":  # whole blocks
        assert all(not isinstance(m.block, nn.Conv2d) for m in moved.modules() if isinstance(m, OnGrids))
