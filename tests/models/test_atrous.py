"""`dilated(x)[..., ::k, ::k] == original(x)` for a feature of original stride 8k."""

import pytest
import timm
import torch
from torch import nn

from pspnet_zoo.models.atrous import dilate, input_strides

# small members that between them have every operation of the two families: 7x7 and deep stems, basic blocks and bottlenecks,
# average-pool and blurred shortcuts, anti-aliasing, 'same' padding, mixed kernels, conditional convolutions
MEMBERS = [
    "resnet10t",
    "resnet18",
    "resnet18d",
    "resnetblur18",
    "resnetaa34d",
    "seresnextaa101d_32x8d",
    "mobilenetv2_035",
    "mixnet_s",
    "tf_mixnet_s",
    "tf_efficientnet_lite0",
    "efficientnet_lite0",
    "efficientnet_blur_b0",
    "tf_efficientnet_cc_b0_4e",
    "efficientnet_cc_b0_4e",
    "mnasnet_small",
    "test_resnet",
    "test_efficientnet",
]


def random_net(name: str) -> nn.Module:
    """float64, in evaluation, with norms that matter and without squeeze-excite, whose global mean the rule does not cover."""
    torch.manual_seed(0)
    net = timm.create_model(name, features_only=True)
    for path, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        elif path.endswith(".se"):
            net.set_submodule(path, nn.Identity())
        elif path.endswith(".routing_fn"):
            net.set_submodule(path, ConstantRouting(module.out_features))
    return net.double().eval()


class ConstantRouting(nn.Module):
    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), self.experts)


# timm itself refuses these at sizes that 32 does not divide: one path rounds down, the shortcut up
ONLY_MULTIPLES = {"resnetaa34d", "seresnextaa101d_32x8d"}


@pytest.mark.parametrize("size", [(97, 129), (64, 96), (71, 83)])
@pytest.mark.parametrize("name", MEMBERS)
def test_dilated_network_is_the_original_evaluated_densely(name, size):
    if name in ONLY_MULTIPLES:
        size = tuple(s // 32 * 32 for s in size)
    net = random_net(name)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        original = net(x)
        keys = list(net.state_dict())
        dilate(net, in_channels=3, output_stride=8)
        dense = net(x)
    assert list(net.state_dict()) == keys
    for reduction, a, b in zip(net.feature_info.reduction(), original, dense, strict=True):
        assert b.shape[-2:] == tuple(-(-s // min(reduction, 8)) for s in size)
        k = max(reduction // 8, 1)
        assert float((a - b[..., ::k, ::k]).norm() / a.norm()) < 1e-5


@pytest.mark.parametrize("output_stride", [8, 16])
def test_strides_stop_at_the_output_stride(output_stride):
    net = random_net("resnet18")
    dilate(net, in_channels=3, output_stride=output_stride)
    assert max(input_strides(net, 3).values()) == output_stride


def test_uniform_policy_dilates_first_blocks_too():
    """hszhao/semseg, model/pspnet.py: every 3x3 of layer3 has rate 2, of layer4 rate 4."""
    rates = {}
    for policy in ("atrous", "uniform"):
        net = random_net("resnet50")
        dilate(net, in_channels=3, output_stride=8, policy=policy)
        rates[policy] = [net.get_submodule(f"layer{i}.{j}.conv2").dilation[0] for i, j in ((3, 0), (3, 1), (4, 0), (4, 1))]
        assert all(
            m.stride == (1, 1) for n, m in net.named_modules() if n.startswith(("layer3", "layer4")) and isinstance(m, nn.Conv2d)
        )
    assert rates == {"atrous": [1, 2, 2, 4], "uniform": [2, 2, 4, 4]}


def test_measuring_strides_leaves_no_trace():
    net = timm.create_model("resnet18", features_only=True).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    input_strides(net, 3)
    assert net.training and not any(m._forward_pre_hooks for m in net.modules())
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_an_operation_that_cannot_be_dilated_is_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 4, 2, 2))
    with pytest.raises(ValueError, match="'1' does not keep the size"):
        dilate(net, in_channels=3, output_stride=8)
