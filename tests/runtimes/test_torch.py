"""The network in PyTorch: its own replica, in which every change of the network counts."""

import copy

import pytest
import torch
from torch import nn

from pspnet_zoo import PSPNet
from pspnet_zoo.runtimes.replica import fingerprint, replica
from pspnet_zoo.runtimes.torch import TorchRuntime


def state_of(network: nn.Module) -> list:
    return [(m.training, [p.requires_grad for p in m.parameters()]) for m in network.modules()]


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("fast", [None, False])
def test_a_network_in_training_stays_in_training_and_is_run_in_evaluation_mode(network, fast):
    x = torch.randn(1, 3, 64, 96)
    wanted = network.predict(x).clone()
    network.train()
    norms(network)[2].eval()
    before, modes = copy.deepcopy(network.state_dict()), state_of(network)
    layouts = [p.stride() for p in network.parameters()]
    runtime = TorchRuntime(network, fast=fast)
    for _ in range(2):
        assert_same(runtime(x), wanted)
    assert state_of(network) == modes and [p.stride() for p in network.parameters()] == layouts
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network(torch.randn(2, 3, 64, 96)).sum().backward()  # and it still learns
    assert all(p.grad is not None for p in network.encoder.parameters() if p.requires_grad)


def test_a_replica_shares_the_memory_of_every_tensor(network):
    copied = replica(network.train())
    pairs = zip(network.state_dict().values(), copied.state_dict().values(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert network.training and not any(m.training for m in copied.modules())
    network.half()
    assert copied.dtype == torch.float32 and all(b.dtype != torch.float16 for b in copied.buffers())


CHANGES = {
    "in place": lambda net: [p.mul_(0.9) for p in net.parameters()],
    "through .data": lambda net: [p.data.mul_(0.9) for p in net.parameters()],
    "other tensors": lambda net: [setattr(p, "data", p.data * 0.9) for p in net.parameters()],
    "a state dict": lambda net: net.load_state_dict({k: v * 0.9 for k, v in net.state_dict().items()}),
    "a state dict, assigned": lambda net: net.load_state_dict({k: v * 0.9 for k, v in net.state_dict().items()}, assign=True),
    "eps": lambda net: [setattr(m, "eps", 1.0) for m in norms(net)],
    "another layer": lambda net: net.segmentation_head.__setitem__(0, nn.Conv2d(16, 3, 1)),
    "a setting": lambda net: [setattr(m, "padding", (0, 0)) for m in net.modules() if isinstance(m, nn.MaxPool2d)],
    "a hook": lambda net: net.encoder.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)),
    "float64": lambda net: net.double(),
}


@pytest.mark.parametrize("fast", [None, False])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_network_counts_at_the_next_call(network, change, fast):
    runtime, x = TorchRuntime(network, fast=fast), torch.randn(1, 3, 65, 96)
    with torch.inference_mode():
        old = runtime(x).clone()
        CHANGES[change](network)
        x = x.to(network.dtype)
        wanted = copy.deepcopy(network).eval()(x)
        assert change == "float64" or (wanted - old).abs().max() > 1e-3 * old.abs().max()
        for _ in range(2):
            assert_same(runtime(x), wanted)
    assert runtime.dtype == wanted.dtype


def test_training_between_calls_counts_without_another_replica(network, monkeypatch):
    made = []
    monkeypatch.setattr("pspnet_zoo.runtimes.torch.replica", lambda net: made.append(net) or replica(net))
    runtime, optimizer = TorchRuntime(network), torch.optim.SGD(network.parameters(), 1e-3)
    x = torch.randn(2, 3, 64, 64)
    for _ in range(3):
        network.train()(x).square().mean().backward()
        optimizer.step()
        assert_same(runtime(x), copy.deepcopy(network).predict(x))
    assert len(made) == 1


def test_a_fingerprint_is_the_same_until_something_changes(network):
    before = fingerprint(network)
    network.train(), network(torch.randn(2, 3, 64, 64))
    assert fingerprint(network) == before and fingerprint(network, values=True) != before


def test_a_network_on_another_device_is_copied_and_stays_where_it_is(network, monkeypatch):
    """The meta device stands for a GPU, which has no results to compare."""
    runtime = TorchRuntime(network, device="meta")
    assert runtime(torch.empty(1, 3, 64, 96, device="meta")).shape == (1, 3, 64, 96)
    moved = runtime._moved
    assert network.device.type == "cpu" and runtime.device.type == "meta"
    runtime(torch.empty(1, 3, 64, 96, device="meta"))
    assert runtime._moved is moved
    with torch.no_grad():
        network.segmentation_head[0].bias.add_(1)
    runtime(torch.empty(1, 3, 64, 96, device="meta"))
    assert runtime._moved is not moved
    moved = runtime._moved
    runtime.refresh()
    runtime(torch.empty(1, 3, 64, 96, device="meta"))
    assert runtime._moved is not moved


def test_a_network_from_a_name_is_moved_not_copied(network, tmp_path, monkeypatch):
    from pspnet_zoo.runtimes.open import open_runtime

    network.save_pretrained(tmp_path / "net")
    runtime = open_runtime(tmp_path / "net", device="meta")
    assert runtime.network.device.type == "meta"


def test_replicas_are_made_of_networks_with_tensors_beside_their_weights():
    network = PSPNet("test_resnet", None, classes=2, psp_out_channels=8).eval()
    torch.nn.utils.parametrizations.weight_norm(network.segmentation_head[0])
    network.cached = (network.segmentation_head[0].weight * 2).sum()  # has a gradient, which deepcopy refuses
    x = torch.randn(1, 3, 33, 40)
    assert_same(TorchRuntime(network)(x), network.predict(x))


@pytest.mark.slow
def test_a_compiled_network_gives_the_same(network):
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert_same(TorchRuntime(network.train(), compile=True)(x), copy.deepcopy(network).predict(x))
