"""A small member of every timm family as a PSPNet: shapes without data, and what training and exporting need."""

import warnings

import pytest
import timm
import torch
from timm.models import is_model_in_modules

from pspnet_zoo import PSPNet
from pspnet_zoo.models.backbone import CONVOLUTIONAL

# fmt: off
RESIZED = [
    "eca_botnext26ts_256", "cpubone_nano", "deit_tiny_patch16_224", "edgenext_xx_small", "efficientformerv2_s0",
    "efficientvim_m1", "efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_224", "fastvit_t8", "ghostnetv3_050",
    "hiera_tiny_224", "hrnet_w18_small", "levit_128s", "lowformer_b0", "test_maxvit", "poolformerv2_s12", "gmlp_ti16_224",
    "mobilevit_xxs", "mobilenetv4_hybrid_medium", "bat_resnext26ts", "nest_tiny", "pit_ti_224", "pvt_v2_b0", "shvit_s1",
    "swiftformer_xs", "test_vit", "test_vit_relpos", "visformer_tiny",
]
"""Of every family that is resized, and small enough for every run."""

LARGER = [
    "convit_tiny",
    "beit_base_patch16_224", "cait_xxs24_224", "coat_tiny", "convmixer_1024_20_ks9_p14", "crossvit_tiny_240", "csatv2",
    "davit_tiny", "deepseek_vit_412m", "efficientformer_l1", "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "iformer_s",
    "inception_v3", "mobilenetv5_base", "mvitv2_tiny", "naflexvit_base_patch16_siglip", "nasnetalarge", "nextvit_small",
    "pnasnet5large", "qwen3_vit_88m", "sam2_hiera_tiny", "samvit_base_patch16_224", "sequencer2d_s",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_patch16_224",
    "twins_svt_small", "vit_tiny_r_s16_p8_224", "vitamin_small_224", "volo_d1_224", "xcit_nano_12_p8_224",
]

DILATED = [
    "test_byobnet", "test_convnext", "cs3darknet_focus_s", "cspnext_tiny", "densenet121", "dla46_c", "dpn48b", "mnasnet_small",
    "fasternet_t0", "ghostnet_050", "hardcorenas_b", "hgnetv2_b0", "inception_next_atto", "inception_resnet_v2", "inception_v4",
    "lcnetv2_small", "test_mambaout", "mobilenetv3_small_050", "test_nfnet", "rdnet_tiny", "regnetx_002", "repghostnet_050",
    "repvit_m1", "res2net50_14w_8s", "resnest14d", "resnet10t", "resnetv2_18d", "rexnet_100", "selecsls42", "legacy_seresnet18",
    "skresnet18", "starnet_s050", "tresnet_m", "vgg11", "ese_vovnet19b_slim_dw", "legacy_xception", "xception41",
]
# fmt: on

UNTRACED = pytest.mark.xfail(reason="torch's Dynamo traces no LSTM", strict=True, raises=torch._dynamo.exc.Unsupported)

HUGE = ("beit_base", "deepseek", "gemma4", "mobilenetv5", "naflexvit", "nasnet", "pnasnet", "qwen3", "samvit")
"""Too large to train in a test."""

EVERY = [*RESIZED, *LARGER, *DILATED]


def known(names: list[str]) -> list[str]:
    """Those that this timm has."""
    return [name for name in names if timm.is_model(name)]


def small(name: str) -> PSPNet:
    try:
        return PSPNet(name, None, classes=3, psp_out_channels=8, psp_bin_channels=4, aux_head=True, aux_channels=8)
    except ValueError as error:
        if "features_only not implemented" in str(error):  # timm 1.0.30 of a few families
            pytest.skip(str(error))
        raise


@pytest.mark.slow
def test_every_family_has_a_member_here():
    missing = [module for module in timm.list_modules() if not any(is_model_in_modules(n, (module,)) for n in EVERY)]
    assert not missing and set(CONVOLUTIONAL) <= set(timm.list_modules())


@pytest.mark.parametrize("name", [*known(RESIZED), *(pytest.param(n, marks=pytest.mark.slow) for n in known(LARGER + DILATED))])
def test_logits_and_auxiliary_logits_have_the_size_of_the_input(name):
    with torch.device("meta"):
        net = small(name).eval()
    for size in ((128, 160), (97, 129)):
        for output in net(torch.empty(1, 3, *size, device="meta"), return_aux=True):
            assert output.shape == (1, 3, *size)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in known(EVERY) if not n.startswith(HUGE)])
def test_a_training_step_reaches_every_parameter(name):
    net = small(name).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    loss = sum(out.square().mean() for out in net(torch.randn(2, 3, 64, 80), return_aux=True))
    loss.backward()
    optimizer.step()
    assert not [n for n, p in net.named_parameters() if p.grad is None]
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=UNTRACED if n == "sequencer2d_s" else ()) for n in known(EVERY) if not n.startswith(HUGE)],
)
def test_compiles_as_one_graph_and_exports(name):
    net = small(name).eval()
    x = torch.randn(1, 3, 64, 80)
    torch.compiler.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        expected = net(x)
        torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x), expected)
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), expected, rtol=1e-3, atol=1e-5)
