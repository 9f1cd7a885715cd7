"""What timm's own tools ask of a model, and what users of its optimizers expect."""

import copy

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

from pspnet_zoo import PSPNet, create


def network(name="resnet10t", **options) -> PSPNet:
    return PSPNet(name, None, classes=2, psp_out_channels=8, **options)


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet10t", 4), ("test_efficientnet", 4), ("test_vit", 6), ("test_convnext", 4), ("vgg11", 0)]
)
def test_rates_fall_with_depth_from_the_heads_to_the_stem(name, blocks):
    net = network(name)
    depth = net.group_matcher()
    depths = [depth(name) for name, _ in net.encoder.named_parameters(prefix="encoder")]
    assert depths == sorted(depths) and len(set(depths)) >= blocks, name
    assert {depth(name) for name, _ in net.named_parameters() if not name.startswith("encoder.")} == {float("inf")}
    groups = create_optimizer_v2(net, opt="adamw", lr=1e-3, layer_decay=0.5).param_groups
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(net.parameters()))
    scales = [scale[id(p)] for p in net.encoder.parameters()]
    assert scales == sorted(scales) and max(scales) < scale[id(net.segmentation_head[0].weight)] == 1


def test_coarse_depth_counts_stages():
    net = network("resnet10t")
    depth = net.group_matcher(coarse=True)
    assert len({depth(name) for name, _ in net.named_parameters()}) == 2 + 4


def test_position_embeddings_and_norms_are_free_of_weight_decay():
    net = network("test_vit")
    [name] = [name for name, _ in net.named_parameters() if name.endswith("pos_embed")]
    assert name in net.no_weight_decay()
    free = [p for group in net.param_groups(0.1, decay_norms=False) if group.get("weight_decay") == 0.0 for p in group["params"]]
    expected = {n for n, p in net.named_parameters() if p.ndim <= 1} | {n for n in net.no_weight_decay()}
    assert {id(p) for p in free} == {id(p) for n, p in net.named_parameters() if n in expected}
    everything = [p for group in net.param_groups(0.1, decay_norms=False) for p in group["params"]]
    assert len(everything) == len({id(p) for p in everything}) == len(list(net.parameters()))


@pytest.mark.parametrize("name", ["resnet10t", "test_efficientnet", "test_vit"])
def test_gradients_with_checkpointing_are_the_same(name):
    net = network(name).train()
    other = copy.deepcopy(net)
    other.set_grad_checkpointing()
    x = torch.randn(2, 3, 64, 64)
    for each in (net, other):
        torch.manual_seed(0)
        each(x).square().mean().backward()
    for (key, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=lambda text, key=key: f"{key}: {text}")


def test_stochastic_depth_reaches_the_encoder_and_the_config(tmp_path):
    net = create("pspnet_test_convnext", drop_path_rate=0.5, psp_out_channels=8).train()
    rates = [m.drop_prob for m in net.modules() if isinstance(m, timm.layers.DropPath)]
    assert rates and max(rates) == 0.5
    again = PSPNet.from_pretrained(net.save_pretrained(tmp_path))
    assert again.config["drop_path_rate"] == 0.5
    assert PSPNet.from_pretrained(tmp_path, drop_path_rate=0.0).config["drop_path_rate"] == 0.0


@pytest.mark.parametrize(("name", "rate", "message"), [("vgg11", 0.1, "has no stochastic depth"), ("resnet10t", 1.5, "is 1.5")])
def test_stochastic_depth_that_cannot_be_is_refused(name, rate, message):
    with pytest.raises(ValueError, match=message):
        network(name, drop_path_rate=rate)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_torchscript_is_refused_with_the_way_out():
    """It hangs on a hook of torch.jit: if torch drops it, this fails."""
    with pytest.raises(RuntimeError, match="TorchScript does not compile this network. Use pspnet_zoo.export"):
        torch.jit.script(network())
