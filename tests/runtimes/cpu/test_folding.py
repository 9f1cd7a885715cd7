import copy

import pytest
import torch
from torch import nn

from pspnet_zoo import PSPNet
from pspnet_zoo.runtimes.cpu import folding
from pspnet_zoo.runtimes.cpu.folding import Accelerated, winograd_pays

FAMILIES = ["test_resnet", "test_efficientnet", "test_nfnet", "test_convnext", "densenet121", "hrnet_w18_small", "test_maxvit"]


@pytest.fixture
def everywhere(monkeypatch):
    """Winograd's algorithm in every layer that it is possible in."""
    monkeypatch.setattr(folding, "winograd_pays", lambda *sizes: True)


def lively(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with norms that are not the identity."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 2)
            layer.bias.data.normal_()
    return network.eval()


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("encoder", FAMILIES)
def test_logits_are_the_same(encoder, everywhere):
    network = lively(PSPNet(encoder, None, classes=5, psp_out_channels=16))
    fast = Accelerated(network)
    for shape in ((1, 3, 65, 97), (2, 3, 40, 33), (1, 3, 1, 19)):
        x = torch.randn(shape)
        with torch.inference_mode():
            wanted = network(x)
            assert_same(fast(x), wanted)  # the first call prepares
            assert_same(fast(x), wanted)


def test_a_resnet_is_folded_whole(monkeypatch):
    """Fails on the day that torch calls conv2d or batch_norm in another way: the network would run, but unfolded."""
    asked = []
    monkeypatch.setattr(folding, "winograd_pays", lambda *sizes: asked.append(sizes) or True)
    network = lively(PSPNet("test_resnet", None, classes=5, psp_out_channels=16))
    fast = Accelerated(network)
    fast(torch.randn(1, 3, 64, 64))
    norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    folded = [c for c in fast._calls.values() if c.norm is not None]
    assert len(folded) == norms - 1  # the fusing one follows a sum
    assert len(asked) >= 3


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_a_convolution_and_its_norm_are_one(bias, affine):
    norm = nn.BatchNorm2d(6, affine=affine)
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, bias=bias), norm).eval()
    fast, x = Accelerated(network), torch.randn(2, 3, 9, 11)
    assert_same(fast(x), network(x))
    assert [c.norm is not None for c in fast._calls.values()] == [True]


ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "hardtanh in place": nn.Hardtanh(-0.5, 0.25, inplace=True),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("norm", [nn.Identity, nn.BatchNorm2d])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_computed_with_its_convolution(activation, norm, fused, everywhere, monkeypatch):
    if not fused:  # a PyTorch without that operation
        monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    folding._fuses.cache_clear()
    narrow, wide = nn.Conv2d(3, 6, (1, 3), stride=2, padding=(0, 1)), nn.Conv2d(6, 6, 3, padding=2, dilation=2, bias=False)
    network = lively(nn.Sequential(narrow, norm(6), ACTIVATIONS[activation], wide, norm(6), ACTIVATIONS[activation]))
    fast, x = Accelerated(network), torch.randn(2, 3, 21, 30)
    with torch.inference_mode():
        for _ in range(2):
            assert_same(fast(x), network(x))
    assert folding._fuses() is fused
    assert [c.activation is not None for c in fast._calls.values()] == [True, True]
    folding._fuses.cache_clear()


class OddActivations(nn.Module):
    """Activations that must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.twice, self.silu = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, x):
        y = self.norms[0](self.kept(x))
        x = nn.functional.relu(y) - y
        y = self.norms[1](self.twice(x))
        x = nn.functional.relu(y) + nn.functional.hardtanh(y)
        return nn.functional.silu(self.silu(x))


class Residual(nn.Module):
    """Two 1x1 convolutions whose sum is written in one of the ways that networks write it; the stem's output is what is added."""

    def __init__(self, add, *, after=lambda x, added: x) -> None:
        super().__init__()
        self.stem, self.convolution, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.add, self.after = add, after

    def forward(self, x):
        x = self.stem(x)
        return self.after(self.add(self.norm(self.convolution(x)), x), x)


def in_place(x, added):
    x += added
    return x


SUMS = {
    "in place": in_place,
    "two operands": lambda x, added: x + added,
    "the other way round": lambda x, added: added + x,
    "torch.add": torch.add,
    "with an activation": lambda x, added: nn.functional.relu(x + added, inplace=True),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("add", SUMS)
def test_a_sum_is_computed_with_its_convolution(add, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(folding, "_fuses", lambda: False)
    network = lively(Residual(SUMS[add]))
    fast, x = Accelerated(network), torch.randn(2, 3, 9, 11).contiguous(memory_format=torch.channels_last)
    wanted = network(x).detach()
    for _ in range(2):
        assert_same(fast(x), wanted)
    assert [c.sum is not None for c in fast._calls.values()] == [False, True]
    assert_same(fast(x.contiguous()), wanted)  # in another order of memory


@pytest.mark.parametrize(
    "network",
    [
        Residual(in_place, after=lambda x, added: x * added),
        Residual(in_place, after=lambda x, added: x * added[:, :, :5, :5].mean()),
        Residual(in_place, after=lambda x, added: (x, added)),
        Residual(lambda x, added: x + added[:, :1]),
        Residual(lambda x, added: x + x),
        Residual(lambda x, added: torch.add(x, added, alpha=2)),
    ],
    ids=["read again", "a part is read again", "returned", "of another shape", "of itself", "scaled"],
)
def test_a_sum_whose_memory_is_needed_is_left(network):
    fast, x = Accelerated(lively(network)), torch.randn(1, 3, 9, 11).contiguous(memory_format=torch.channels_last)
    wanted = network(x)
    found = fast(x)
    for one, other in zip(found, wanted, strict=True) if isinstance(wanted, tuple) else [(found, wanted)]:
        assert_same(one, other.detach())
    assert not any(c.sum for c in fast._calls.values())


def test_what_only_a_large_image_reads_again_is_not_overwritten_by_a_sum():
    def after(x, added):
        return x * added if x.shape[-1] > 130 else x

    fast = Accelerated(lively(Residual(in_place, after=after)))
    for width in (11, 140, 11, 140):
        x = torch.randn(1, 3, 9, width).contiguous(memory_format=torch.channels_last)
        assert_same(fast(x), fast.network(x).detach())
    assert not any(c.sum for c in fast._calls.values())


def test_what_a_hook_keeps_is_not_overwritten_by_a_sum():
    network, kept = lively(Residual(in_place)), []
    fast, x = Accelerated(network), torch.randn(1, 3, 9, 11).contiguous(memory_format=torch.channels_last)
    fast(x)
    assert any(c.sum for c in fast._calls.values())
    network.stem.register_forward_hook(lambda module, args, output: kept.append(output))
    assert_same(fast(x), network(x).detach())
    assert_same(kept[0], kept[1].detach())


def test_the_image_is_not_overwritten_by_a_sum_with_it():
    network = nn.Conv2d(3, 3, 1)
    fast = Accelerated(Around(network))
    x = torch.randn(1, 3, 9, 11).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    assert_same(fast(x), (network(x) + x).detach())
    assert torch.equal(x, before)


class Around(nn.Module):
    """A convolution whose input is added to its output."""

    def __init__(self, convolution) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x):
        return self.convolution(x) + x


def test_activations_that_cannot_be_folded_are_left(everywhere):
    network = lively(OddActivations())
    fast, x = Accelerated(network), torch.randn(2, 3, 9, 12)
    with torch.inference_mode():
        for _ in range(2):
            assert_same(fast(x), network(x))
    assert not any(c.activation for c in fast._calls.values())


def test_an_activation_that_changes_is_noticed(everywhere):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardtanh()).eval()
    fast, x = Accelerated(network), torch.randn(1, 3, 9, 9)
    assert_same(fast(x), network(x).detach())
    network[1].max_val = 0.1
    assert_same(fast(x), network(x).detach())
    network[1] = nn.ReLU()
    assert_same(fast(x), network(x).detach())


@pytest.mark.parametrize("sides", [(1, 2, 0, 3), (0, 0, 0, 0), (2, 2, 2, 2), (1, 1), (-1, 1, 2, 0)])
def test_padding_is_torchs(sides):
    x = torch.randn(2, 3, 5, 7).contiguous(memory_format=torch.channels_last)
    assert torch.equal(folding._padded(x, sides), nn.functional.pad(x, sides))


class Odd(nn.Module):
    """Everything that must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.called_twice, self.plain = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))
        self.computed = nn.Parameter(torch.randn(3, 3, 3, 3))

    def forward(self, x):
        y = self.read_twice(x)
        x = self.norms[0](y) + y
        x = self.norms[1](self.called_twice(x)) + self.norms[2](self.called_twice(2 * x))
        x = nn.functional.conv2d(x, self.computed / self.computed.std(), padding=1)
        return self.norms[3](x.relu()) + self.plain(x)


def test_what_cannot_be_folded_is_left(everywhere):
    network = lively(Odd())
    fast, x = Accelerated(network), torch.randn(2, 3, 9, 12)
    wanted = network(x)
    for _ in range(3):
        assert_same(fast(x), wanted)
    assert not any(c.norm for c in fast._calls.values())


CHANGES = {
    "in place": lambda net: [p.mul_(0.9) for p in net.parameters()],
    "through .data": lambda net: [p.data.mul_(0.9) for p in net.parameters()],
    "order of channels": lambda net: [p.data.copy_(p.data.flip(1)) for p in net.parameters() if p.ndim == 4],
    "other tensors": lambda net: [setattr(p, "data", p.data * 0.9) for p in net.parameters()],
    "statistics": lambda net: [m.running_var.data.mul_(2) for m in norms(net)],
    "eps": lambda net: [setattr(m, "eps", 1.0) for m in norms(net)],
    "a hook on a convolution": lambda net: [m.register_forward_hook(lambda *args: args[-1] * 2) for m in convolutions(net)],
    "a hook that only copies": lambda net: [m.register_forward_hook(lambda *args: args[-1].clone()) for m in convolutions(net)],
}


def norms(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def convolutions(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_network_is_noticed_at_once(change, everywhere):
    network = lively(PSPNet("test_resnet", None, classes=3, psp_out_channels=16))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fast, x = Accelerated(network), torch.randn(2, 3, 65, 80)
    fast(x), fast(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        old = network(x)
        CHANGES[change](network)
        wanted = copy.deepcopy(network)(x)
        assert change == "a hook that only copies" or (wanted - old).abs().max() > 1e-3 * old.abs().max()
        for _ in range(2):
            assert_same(fast(x), wanted)


class Fickle(nn.Module):
    """Calls a convolution and its norm on small images, and something in between on larger ones."""

    def __init__(self, between) -> None:
        super().__init__()
        self.conv, self.norm, self.between = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), between

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y if x.shape[-1] <= 128 else self.between(y))


def test_a_branch_that_the_recorded_image_did_not_take_is_computed_right(everywhere):
    network = lively(Fickle(torch.relu))
    fast, x = Accelerated(network), torch.randn(1, 3, 9, 140)
    for one in (x[..., :9], x, x[..., :9], x):
        assert_same(fast(one), network(one).detach())


@pytest.mark.parametrize(
    "between", [lambda y: torch.from_numpy(y.detach().numpy() * 2), lambda y: y.relu()], ids=["unseen by torch", "seen"]
)
def test_a_folded_convolution_whose_norm_does_not_get_its_output_raises(between, monkeypatch):
    """Neither normalised twice nor left out."""
    network = lively(Fickle(between))
    fast = Accelerated(network)
    monkeypatch.setattr(
        folding.CallRecorder, "folded", lambda self, output, folded=folding.CallRecorder.folded: kept or folded(self, output)
    )
    kept: dict = {}
    fast(torch.randn(1, 3, 9, 9))
    kept.update(fast._calls)
    with pytest.raises(RuntimeError, match="folded convolution .* fast=False"):
        fast(torch.randn(1, 3, 9, 140))


def test_the_rule_is_asked_with_channels_sides_and_dilation(monkeypatch):
    asked = []
    monkeypatch.setattr(folding, "winograd_pays", lambda *sizes: asked.append(sizes) or True)
    Accelerated(nn.Conv2d(4, 5, 3, padding=2, dilation=2).eval())(torch.randn(1, 4, 9, 11))
    assert asked == [(4, 5, 9, 11, 2)]


def test_winograd_is_for_wide_layers_on_maps_that_tiles_cover():
    assert winograd_pays(2048, 512, 64, 128, 1) and winograd_pays(512, 512, 64, 128, 4)
    assert not winograd_pays(64, 64, 128, 256, 1)
    assert not winograd_pays(512, 512, 9, 9, 4)
    assert winograd_pays(256, 256, 32, 32, 1)  # 64 tiles
    assert not winograd_pays(191, 256, 32, 32, 1) and not winograd_pays(256, 256, 28, 32, 1)
    assert winograd_pays(256, 256, 40, 40, 4) and not winograd_pays(256, 256, 36, 36, 4)  # 1.44 and 1.78 of the map


@pytest.mark.parametrize("layer", ["conv1.0", "conv1.1", "conv1.6"])
def test_damaged_weights_are_refused_though_a_fused_relu_makes_zero_of_nan(layer):
    net = PSPNet("test_resnet", None, classes=3, psp_out_channels=16).eval()
    net.encoder.model.get_submodule(layer).weight.data.view(-1)[0] = torch.nan
    with pytest.raises(FloatingPointError, match="Weights of the model are NaN or infinite"):
        Accelerated(net)(torch.rand(1, 3, 64, 64))


def test_weights_that_are_damaged_later_are_refused():
    net = PSPNet("test_resnet", None, classes=3, psp_out_channels=16).eval()
    fast = Accelerated(net)
    fast(torch.rand(1, 3, 64, 64))
    net.encoder.model.conv1[0].weight.data.view(-1)[0] = torch.inf
    with pytest.raises(FloatingPointError, match="Weights of the model are NaN or infinite"):
        fast(torch.rand(1, 3, 64, 64))
