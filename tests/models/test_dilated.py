"""`dilated(x)[..., ::k, ::k] == original(x)` for a feature of original stride 8k."""

import pytest
import timm
import torch
from timm.layers import SplitAttn
from torch import nn

from pspnet_zoo.models import dilated
from pspnet_zoo.models.dilated import dilate, input_strides

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
    "resnest14d",
]

# a small member of every other convolutional family, and of lines in it with operations of their own
FAMILIES = [
    "test_byobnet",
    "mobileone_s0",
    "gernet_s",
    "test_convnext",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "dla46_c",
    "dpn48b",
    "fasternet_t0",
    "ghostnet_050",
    "hardcorenas_b",
    "hgnetv2_b0",
    "inception_next_atto",
    "lcnetv2_small",
    "test_mambaout",
    "mobilenetv3_small_050",
    "tf_mobilenetv3_small_minimal_100",
    "test_nfnet",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m1",
    "resnetv2_18d",
    "rexnet_100",
    "legacy_seresnet18",
    "starnet_s050",
    "ese_vovnet19b_slim_dw",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "densenet121",
            "dm_nfnet_f0",
            "hgnet_tiny",
            "inception_resnet_v2",
            "inception_v4",
            "legacy_xception",
            "nf_regnet_b0",
            "rdnet_tiny",
            "regnetv_040",
            "res2net50_14w_8s",
            "resnet50_clip",
            "selecsls42",
            "tresnet_m",
            "vgg11",
            "xception41",
        )
    ),
]

# statistics over the whole map, outside norms and gates that the test can hold constant: a denser map has others
INEXACT = {
    "skresnet18": "selective kernels",
    "convnextv2_atto": "global response norm",
    "test_efficientnet_gn": "group norm",
    "test_efficientnet_evos": "evolved norm of groups",
    "resnetv2_50x1_bit": "group norm",
}

# gates by global means: "se" in timm's names, or one of these classes
GATES = {"SEModule", "SqueezeExcite", "SqueezeExciteCl", "EffectiveSEModule", "EcaModule", "CecaModule", "SEWithNorm", "EseModule"}
GATES |= {"ChannelAttention", "SqueezeExcitation"}


def random_net(name: str) -> nn.Module:
    """float64, in evaluation, with norms that matter; what follows a global mean, which the rule does not cover, made constant."""
    torch.manual_seed(0)
    net = timm.create_model(name, features_only=True)
    for path, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        elif isinstance(module, SplitAttn):
            nn.init.zeros_(module.fc2.weight)
        elif path.endswith((".se", ".se_module")) or type(module).__name__ in GATES:
            net.set_submodule(path, nn.Identity())
        elif path.endswith(".routing_fn"):
            net.set_submodule(path, ConstantRouting(module.out_features))
    for path, parameter in net.named_parameters():
        if path.endswith(("gamma", "skipinit_gain", "grn.weight")):  # that scale branches by almost nothing
            nn.init.uniform_(parameter, 0.5, 1.5)
    return net.double().eval()


class ConstantRouting(nn.Module):
    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), self.experts)


def deviations(name: str, size: tuple[int, int]) -> list[float]:
    """Of `dilated(x)[..., ::k, ::k]` from `original(x)`, relative, for every feature."""
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name} yet")
    net = random_net(name)
    channels_last = getattr(net, "output_fmt", None) == "NHWC"
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        original = net(x)
        keys = list(net.state_dict())
        dilate(net, in_channels=3, output_stride=8)
        dense = net(x)
    assert list(net.state_dict()) == keys
    found = []
    for reduction, a, b in zip(net.feature_info.reduction(), original, dense, strict=True):
        a, b = (t.permute(0, 3, 1, 2) if channels_last else t for t in (a, b))
        k = max(reduction // 8, 1)
        assert b.shape[-1] >= k * (a.shape[-1] - 1) + 1 > 1
        found.append(float((a - b[..., ::k, ::k][..., : a.shape[-2], : a.shape[-1]]).norm() / a.norm()))
    return found


# timm itself refuses these at sizes that 32 does not divide: one path rounds down, the shortcut up
ONLY_MULTIPLES = {"resnetaa34d", "seresnextaa101d_32x8d"}


@pytest.mark.parametrize("size", [(97, 129), (64, 96), (71, 83)])
@pytest.mark.parametrize("name", MEMBERS)
def test_dilated_network_is_the_original_evaluated_densely(name, size):
    if name in ONLY_MULTIPLES:
        size = tuple(s // 32 * 32 for s in size)
    assert max(deviations(name, size)) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_every_convolutional_family_is_the_original_evaluated_densely(name):
    assert max(deviations(name, (128, 160))) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", INEXACT)
def test_statistics_over_the_whole_map_are_the_only_exception(name):
    deviation = max(deviations(name, (128, 160)))
    print(f"{name}: {INEXACT[name]}, {deviation:.0e}")  # noqa: T201
    assert 1e-5 < deviation < 0.5


def test_cells_of_dilated_maps_lie_at_a_bounded_stride():
    net = random_net("test_efficientnet")
    dilate(net, in_channels=3, output_stride=8)
    sizes = [tuple(f.shape[-2:]) for f in net(torch.randn(1, 3, 71, 83).double())]
    assert sizes == [(-(-71 // s), -(-83 // s)) for s in (2, 4, 8, 8, 8)]


@pytest.mark.parametrize(
    ("name", "sides"), [("resnet10t", (1, 1)), ("dla46_c", (8, 1)), ("test_convnext", (8, 1)), ("hgnetv2_b0", (1, 1))]
)
def test_remainders_that_would_be_cut_off_are_reported(name, sides):
    with torch.device("meta"):
        net = timm.create_model(name, features_only=True)
    assert dilate(net, in_channels=3, output_stride=8) == sides


@pytest.mark.parametrize("output_stride", [8, 16])
def test_strides_stop_at_the_output_stride(output_stride):
    net = random_net("resnet18")
    dilate(net, in_channels=3, output_stride=output_stride)
    assert max(input_strides(net, 3).values()) == output_stride


# (stride, dilation) of the 3x3 convolutions, as the upstreams' own code sets them: mmseg/models/backbones/{resnet,mobilenet_v2}.py,
# semseg model/pspnet.py
POLICIES = [
    (
        "resnet50",
        "atrous",
        {"layer3.0.conv2": (1, 1), "layer3.1.conv2": (1, 2), "layer4.0.conv2": (1, 2), "layer4.1.conv2": (1, 4)},
    ),
    (
        "resnet50",
        "uniform",
        {"layer3.0.conv2": (1, 2), "layer3.1.conv2": (1, 2), "layer4.0.conv2": (1, 4), "layer4.1.conv2": (1, 4)},
    ),
    (
        "resnet50",
        "strided",
        {"layer3.0.conv2": (2, 1), "layer3.1.conv2": (1, 2), "layer4.0.conv2": (2, 2), "layer4.1.conv2": (1, 4)},
    ),
    (
        "resnet18",
        "first_convolutions",
        {"layer3.0.conv1": (1, 1), "layer3.1.conv1": (1, 2), "layer4.0.conv1": (1, 2), "layer4.1.conv1": (1, 4)}
        | {f"layer{stage}.{block}.conv2": (1, 1) for stage in (3, 4) for block in (0, 1)},
    ),
    (
        "mobilenetv2_100",
        "first_blocks",
        {f"blocks.{stage}.0.conv_dw": (1, rate) for stage, rate in ((3, 2), (4, 2), (5, 4), (6, 4))}
        | {f"blocks.{stage}.1.conv_dw": (1, 1) for stage in (3, 4, 5)},
    ),
]


@pytest.mark.parametrize(("name", "policy", "expected"), POLICIES, ids=lambda v: v if isinstance(v, str) else "")
def test_each_policy_sets_the_rates_of_its_upstream(name, policy, expected):
    with torch.device("meta"):
        net = timm.create_model(name, features_only=True)
    dilate(net, in_channels=3, output_stride=8, policy=policy)
    convolutions = {path: net.get_submodule(path) for path in expected}
    assert {path: (c.stride[0], c.dilation[0]) for path, c in convolutions.items()} == expected
    assert all(c.padding == c.dilation for c in convolutions.values())


def test_identity_shortcut_pool_leaves_out_the_pools_that_would_be_dilated():
    with torch.device("meta"):
        net = timm.create_model("resnest14d", features_only=True)
    dilate(net, in_channels=3, output_stride=8, shortcut_pool="identity")
    pools = {path for path, m in net.named_modules() if isinstance(m, nn.AvgPool2d)}
    assert pools == {"layer2.0.downsample.0", "layer2.0.avd_last"}


@pytest.mark.parametrize(("name", "policy"), [("resnet50", "first_convolutions"), ("resnet18", "first_blocks")])
def test_a_policy_for_other_networks_is_refused(name, policy):
    with torch.device("meta"):
        net = timm.create_model(name, features_only=True)
    with pytest.raises(ValueError, match=f"'{policy}' is a rule for"):
        dilate(net, in_channels=3, output_stride=8, policy=policy)


def test_measuring_strides_leaves_no_trace():
    net = timm.create_model("resnet18", features_only=True).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    input_strides(net, 3)
    assert net.training and not any(m._forward_pre_hooks for m in net.modules())
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_an_operation_that_cannot_be_dilated_is_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 4, 3, 2, 1, padding_mode="reflect"))
    with pytest.raises(ValueError, match="'1' needs the dilation 1, which cannot be given to"):
        dilate(net, in_channels=3, output_stride=8)


def test_the_forward_without_data_still_recognises_torchs_batch_norm():
    """It is matched by identity: if torch calls another function, measuring is right and ten times slower, and this fails."""
    x = torch.randn(2, 3, 4, 4)
    with dilated._WithoutBatchNorms():
        assert nn.BatchNorm2d(3).eval()(x) is x
        assert timm.layers.BatchNormAct2d(3, apply_act=False).eval()(x) is x
