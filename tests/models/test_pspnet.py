"""PSPNet, as users of segmentation_models_pytorch know it and as the paper has it."""

import inspect
import json
import time
import warnings

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn import functional as F

from pspnet_zoo import PSPNet
from pspnet_zoo.models.pyramid import BatchNorm2d


def small(**options) -> PSPNet:
    torch.manual_seed(0)
    return PSPNet(**{"encoder_name": "resnet10t", "encoder_weights": None, "classes": 5, "psp_out_channels": 16, **options})


def test_arguments_come_in_smps_order():
    smps = ["encoder_name", "encoder_weights", "encoder_depth", "psp_out_channels", "decoder_use_norm", "psp_dropout"]
    smps += ["in_channels", "classes", "activation", "upsampling", "aux_params"]
    assert list(inspect.signature(PSPNet).parameters)[: len(smps)] == smps


def test_smps_package_agrees_on_the_arguments():
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = [p for p in inspect.signature(smp.PSPNet).parameters if p != "kwargs"]
    assert list(inspect.signature(PSPNet).parameters)[: len(theirs)] == theirs


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="psp_out_chanels"):
        small(psp_out_chanels=3)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (71, 83), (8, 8), (1, 1), (200, 9)])
@pytest.mark.parametrize("align_corners", [True, False, None])
@pytest.mark.parametrize("encoder", ["resnet10t", "test_efficientnet", "tf_efficientnet_lite0"])
def test_output_has_the_size_of_the_input(encoder, size, align_corners):
    net = small(encoder_name=encoder, align_corners=align_corners, aux_head=True).eval()
    out, aux = net(torch.randn(1, 3, *size), return_aux=True)
    assert out.shape == aux.shape == (1, 5, *size)


@pytest.mark.parametrize("align_corners", [True, False, None])
@pytest.mark.parametrize("size", [(64, 64), (71, 83)])
def test_upsampling_one_stops_at_the_encoders_stride(size, align_corners):
    full, raw = small(align_corners=align_corners).eval(), small(align_corners=align_corners, upsampling=1).eval()
    x = torch.randn(2, 3, *size)
    assert raw(x).shape == (2, 5, -(-size[0] // 8), -(-size[1] // 8))
    if align_corners is not None:
        expected = F.interpolate(raw(x), size=size, mode="bilinear", align_corners=align_corners)
        torch.testing.assert_close(full(x), expected)


def test_upsampling_eight_is_smps_default():
    x = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(small(upsampling=8).eval()(x), small().eval()(x))


def test_exact_placement_equals_align_corners_at_sizes_of_the_grid():
    x = torch.randn(1, 3, 65, 97)
    exact, corners = small(align_corners=None).eval(), small(align_corners=True).eval()
    corners.load_state_dict(exact.state_dict())
    corners.decoder.pyramid.align_corners = False
    torch.testing.assert_close(exact(x), corners(x))


def test_output_depends_on_training_by_norms_and_dropout_alone():
    net = small(decoder_use_norm="identity", psp_dropout=0.0, aux_head=True).eval()
    x = torch.randn(1, 3, 32, 32)
    expected = net(x)
    net.train().encoder.eval()
    assert torch.equal(net(x), expected)


def test_layout_that_smps_users_rely_on():
    net = small(aux_params={"classes": 3, "pooling": "max", "dropout": 0.5, "activation": "sigmoid"})
    assert net.name == "psp-resnet10t"
    assert isinstance(net.segmentation_head[0], nn.Conv2d)
    pool, flatten, dropout, linear, activation = net.classification_head
    assert isinstance(pool, nn.AdaptiveMaxPool2d) and isinstance(flatten, nn.Flatten) and dropout.p == 0.5
    assert linear.out_features == 3 and isinstance(activation.activation, nn.Sigmoid)
    x = torch.randn(2, 3, 64, 64)
    features = net.encoder(x)
    assert isinstance(features, list) and len(features) == 6
    assert net.decoder(features).shape == (2, 16, 8, 8)
    masks, labels = net.eval()(x)
    assert masks.shape == (2, 5, 64, 64) and labels.shape == (2, 3)


def test_tu_prefix_is_accepted_and_kept_in_the_name():
    net = small(encoder_name="tu-resnet10t")
    assert net.name == "psp-tu-resnet10t"
    assert list(net.state_dict()) == list(small().state_dict())


def test_all_outputs_come_in_order():
    net = small(aux_head=True, aux_params={"classes": 3}).eval()
    shapes = [tuple(t.shape) for t in net(torch.randn(1, 3, 32, 48), return_aux=True)]
    assert shapes == [(1, 5, 32, 48), (1, 5, 32, 48), (1, 3)]


def test_auxiliary_logits_of_a_network_without_the_head_are_refused():
    with pytest.raises(ValueError, match="aux_head=True"):
        small()(torch.randn(1, 3, 32, 32), return_aux=True)


def test_defaults_are_the_papers():
    net = PSPNet("resnet50", None, classes=19)
    assert net.encoder.output_stride == 8 and net.encoder.out_channels[-1] == 2048
    convolution = net.decoder.pyramid.fuse[0]
    assert convolution.weight.shape == (512, 4096, 3, 3) and convolution.bias is None
    assert [b[0].out_channels for b in net.decoder.pyramid.branches] == [512] * 4
    assert net.decoder.dropout.p == 0.1 and net.segmentation_head[0].kernel_size == (1, 1)


@pytest.mark.parametrize("weights", [None, False])
def test_no_encoder_weights_touch_no_network(weights, monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    small(encoder_weights=weights)


def test_predict_gives_logits_without_gradient_and_stays_in_evaluation():
    net = small().train()
    out = net.predict(torch.randn(1, 3, 32, 32))
    assert not net.training and out.is_inference()


def test_a_frozen_encoder_keeps_weights_and_statistics():
    net = small().train()
    net.freeze_encoder()
    before = {k: v.clone() for k, v in net.encoder.state_dict().items()}
    net.train()
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert net.decoder.training and not net.encoder.training
    assert all(p.grad is None for p in net.encoder.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.encoder.state_dict().items())
    net.unfreeze_encoder()
    assert net.encoder.training and all(p.requires_grad for p in net.encoder.parameters())


def test_every_parameter_of_a_default_network_gets_a_gradient():
    net = small()
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None]


@pytest.mark.filterwarnings("ignore:A training batch of one:UserWarning")
def test_a_training_batch_of_one_works():
    net = small(aux_head=True).train()
    logits, aux = net(torch.randn(1, 3, 64, 64), return_aux=True)
    (logits.sum() + aux.sum()).backward()
    one_cell = net.decoder.pyramid.branches[0]
    assert isinstance(one_cell[1], nn.BatchNorm2d) and one_cell[1].num_batches_tracked == 0


def test_loose_loading_leaves_out_other_shapes_and_says_which():
    source = small(classes=7).state_dict()
    net, keys = small(), list(source)
    with pytest.warns(UserWarning, match=r"segmentation_head.0.weight: \(7, 16, 1, 1\) in the file, \(5, 16, 1, 1\) here"):
        result = net.load_state_dict(source, strict=False)
    assert list(source) == keys
    assert sorted(result.missing_keys) == ["segmentation_head.0.bias", "segmentation_head.0.weight"]
    torch.testing.assert_close(net.decoder.pyramid.fuse[0].weight, source["decoder.pyramid.fuse.0.weight"])
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(source, True)


def test_reset_classifier_names_what_it_made_and_keeps_the_rest():
    net = small(aux_head=True)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    remade = net.reset_classifier(9)
    assert {k for k, v in net.state_dict().items() if v.shape != before[k].shape} == set(remade)
    assert net.config["classes"] == 9 and net.eval()(torch.randn(1, 3, 32, 32)).shape[1] == 9


def test_param_groups_hold_every_parameter_once():
    net = small(aux_head=True)
    encoder, heads = net.param_groups(0.01, head_factor=10)
    assert encoder["lr"] == 0.01 and heads["lr"] == 0.1
    ids = [id(p) for group in (encoder, heads) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize("norm", [True, False, "batchnorm", "identity", "layernorm", {"type": "batchnorm", "eps": 1e-3}])
def test_decoder_norms_of_smp(norm):
    net = small(decoder_use_norm=norm).train()
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 5, 32, 32)
    assert (net.decoder.pyramid.fuse[0].bias is None) == (norm not in (False, "identity"))


@pytest.mark.parametrize(("kind", "layer"), [("batchnorm", BatchNorm2d), ("layernorm", LayerNorm2d)])
def test_options_of_decoder_norms_arrive(kind, layer):
    net = small(decoder_use_norm={"type": kind, "eps": 0.25}, aux_head=True)
    norms = [m for part in (net.decoder, net.auxiliary_head) for m in part.modules() if isinstance(m, layer)]
    assert len(norms) == 6 and all(norm.eps == 0.25 for norm in norms)
    assert net.config["decoder_use_norm"] == {"type": kind, "eps": 0.25}


@pytest.mark.parametrize("norm", ["instancenorm", "inplace", {"eps": 1}])
def test_other_decoder_norms_are_refused(norm):
    with pytest.raises(ValueError, match="decoder_use_norm is"):
        small(decoder_use_norm=norm)


def test_an_activation_arrives():
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(small(activation="sigmoid").eval()(x), small().eval()(x).sigmoid())


def test_config_rebuilds_the_network():
    net = small(aux_head=True, align_corners=None, psp_dropout=0.3)
    config = json.loads(json.dumps(net.config))
    twin = PSPNet(encoder_weights=None, **config)
    twin.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 40, 56)
    torch.testing.assert_close(twin.eval()(x), net.eval()(x))


ENCODERS = pytest.mark.parametrize("encoder", ["resnet10t", "tf_efficientnet_lite0"])
PLACEMENTS = pytest.mark.parametrize("align_corners", [True, False, None])


@ENCODERS
@PLACEMENTS
def test_compiles_as_one_graph(encoder, align_corners):
    net = small(encoder_name=encoder, align_corners=align_corners).eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))


@pytest.mark.slow
@ENCODERS
def test_compiling_again_for_another_size_takes_seconds(encoder):
    net = small(encoder_name=encoder).eval()
    compiled = torch.compile(net, backend="eager")
    start = time.process_time()
    with torch.no_grad():
        for size in ((65, 97), (130, 71)):  # the second time, for any size
            x = torch.randn(1, 3, *size)
            torch.testing.assert_close(compiled(x), net(x))
    assert time.process_time() - start < 100  # with sizes in fractions it was over 400


# symbolic 'same' padding takes torch a minute
@pytest.mark.parametrize("encoder", ["resnet10t", pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow)])
@PLACEMENTS
def test_exports_with_any_size(encoder, align_corners):
    net = small(encoder_name=encoder, align_corners=align_corners).eval()
    any_size = {"x": {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(net, (torch.randn(1, 3, 65, 97),), dynamic_shapes=any_size).module()
    for size in ((65, 97), (130, 71)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(program(x), net(x), rtol=1e-4, atol=1e-5)


def test_same_padding_exports_with_one_size():
    net = small(encoder_name="tf_efficientnet_lite0", align_corners=None).eval()
    x = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning", "ignore:.*torch.jit.trace:DeprecationWarning")
@ENCODERS
@PLACEMENTS
def test_traces_with_any_size(encoder, align_corners):
    net = small(encoder_name=encoder, align_corners=align_corners).eval()
    traced = torch.jit.trace(net, torch.randn(1, 3, 65, 97))
    for size in ((65, 97), (130, 71)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(traced(x), net(x), rtol=1e-4, atol=1e-5)


def test_training_step_compiles_as_one_graph():
    net = small(aux_head=True).train()
    step = torch.compile(net, fullgraph=True, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sum(t.sum() for t in step(torch.randn(2, 3, 64, 64), return_aux=True)).backward()
