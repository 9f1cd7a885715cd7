"""Encoders as lists of features, and where their cells lie."""

import pytest
import timm
import torch
from torch import nn

from pspnet_zoo import PSPNet, WeightsError
from pspnet_zoo.models.backbone import list_backbones
from pspnet_zoo.models.encoder import build_encoder
from pspnet_zoo.storage.files import read_shapes, write_safetensors

SMALL = ["resnet18", "resnet10t", "tf_efficientnet_lite0", "mobilenetv2_035", "test_efficientnet"]


@pytest.mark.parametrize("name", SMALL)
def test_features_are_the_input_and_one_map_a_stage_at_bounded_stride(name):
    encoder = build_encoder(name).eval()
    x = torch.randn(1, 3, 65, 97)
    features = encoder(x)
    assert features[0] is x
    assert [f.shape[1] for f in features] == encoder.out_channels
    assert [tuple(f.shape[-2:]) for f in features[1:]] == [(-(-65 // s), -(-97 // s)) for s in (2, 4, 8, 8, 8)]
    assert encoder.output_stride == 8


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_every_parameter_of_every_depth_gets_a_gradient(name, depth):
    encoder = build_encoder(name, depth=depth)
    encoder(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    assert len(encoder.out_channels) == depth + 1
    assert not [n for n, p in encoder.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", SMALL)
def test_state_dict_keys_are_timms(name):
    theirs = timm.create_model(name, features_only=True).state_dict()
    ours = build_encoder(name).model.state_dict()
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_input_channels_get_a_first_convolution_and_normalisation(in_channels):
    encoder = build_encoder("resnet18", in_channels=in_channels)
    assert encoder(torch.randn(1, in_channels, 32, 32))[-1].shape == (1, 512, 4, 4)
    assert len(encoder.mean) == len(encoder.std) == in_channels


def test_average_pooled_anti_aliasing_takes_odd_sizes():
    assert build_encoder("resnetaa34d").eval()(torch.randn(1, 3, 71, 83))[-1].shape[-2:] == (9, 11)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet5", None, "no model 'resnet5'. Did you mean 'resnet50"),
        ("tu-swin_tiny_patch4_window7_22", True, "Did you mean 'swin_tiny_patch4_window7_224'"),
        ("resnet18.a1_in22k", None, "no weights 'a1_in22k' of 'resnet18'. Tags: a1_in1k"),
        ("resnet18", "a1_in22k", "no weights 'a1_in22k' of 'resnet18'. Tags: a1_in1k"),
        ("coatnet_0_224", True, "no weights of 'coatnet_0_224'. Tags: none"),
        ("coatnet_0_224", "in1k", "no weights 'in1k' of 'coatnet_0_224'. Tags: none"),
    ],
)
def test_a_model_that_cannot_be_had_is_named_with_the_reason(name, weights, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, weights)


def test_a_tag_in_the_name_chooses_what_the_weights_expect():
    with torch.device("meta"):
        assert build_encoder("tf_efficientnet_b0.ap_in1k").mean == (0.5, 0.5, 0.5) != build_encoder("tf_efficientnet_b0").mean


@pytest.mark.parametrize(
    ("name", "mechanism", "native", "strides"),
    [
        ("resnet10t", "dilated", (2, 4, 8, 16, 32), [1, 2, 4, 8, 8, 8]),
        ("test_convnext", "dilated", (4, 8, 16, 32), [1, 4, 8, 8, 8]),
        ("pvt_v2_b0", "resized", (4, 8, 16, 32), [1, 4, 8, 8, 8]),
        ("test_vit", "resized", (16, 16), [1, 8, 8]),
    ],
)
def test_an_encoder_says_how_its_strides_are_bounded(name, mechanism, native, strides):
    encoder = build_encoder(name)
    assert (encoder.mechanism, encoder.native_strides, encoder.strides) == (mechanism, native, strides)


@pytest.mark.parametrize("name", ["bat_resnext26ts", "mobilenetv4_hybrid_medium", "ghostnetv2_100", "ghostnetv3_050", "halonet26t"])
def test_attention_and_gates_over_the_map_are_not_dilated(name):
    assert name in list_backbones(mechanism="resized") and name not in list_backbones(mechanism="dilated")


def test_backbones_are_timms_models():
    assert list_backbones() == timm.list_models()
    assert sorted(list_backbones(mechanism="dilated") + list_backbones(mechanism="resized")) == sorted(timm.list_models())
    assert list_backbones("resnet1?") == timm.list_models("resnet1?")
    with pytest.raises(ValueError, match="mechanism is 'dense'; it can be None, 'dilated', 'resized'"):
        list_backbones(mechanism="dense")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 2}, "encoder_depth is 2"),
        ({"output_stride": 4}, "encoder_output_stride is 4"),
        ({"dilation": "rate"}, "dilation is 'rate'"),
    ],
)
def test_an_argument_outside_its_range_is_quoted(options, message):
    with pytest.raises(ValueError, match=message):
        build_encoder("resnet18", **options)


def test_without_the_network_weights_are_refused_at_once(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"it waits for {seconds} s"))
    huggingface_hub.close_session()
    message = r"'resnet18' are not in the cache.*fetch model\.safetensors of .* timm/resnet18\.a1_in1k .*as encoder_weights"
    with pytest.raises(WeightsError, match=message):
        build_encoder("resnet18", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(WeightsError, match=message):
        build_encoder("resnet18", True)
    huggingface_hub.close_session()


def test_encoder_weights_come_from_a_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    state = timm.create_model("resnet18").state_dict()
    path = str(tmp_path / "resnet18.safetensors")
    save_file(state, path)
    encoder = build_encoder("resnet18", path)
    torch.testing.assert_close(encoder.model.conv1.weight, state["conv1.weight"], rtol=0, atol=0)
    with pytest.raises(FileNotFoundError, match="No encoder weights at '.*nowhere.safetensors'"):
        build_encoder("resnet18", str(tmp_path / "nowhere.safetensors"))


def trained(name):
    """State of a timm model as of a trained one, in which no two tensors are equal."""
    state = timm.create_model(name).state_dict()
    return {key: torch.rand_like(each) if each.is_floating_point() else each for key, each in state.items()}


@pytest.mark.parametrize(
    ("of", "prefix", "message"),
    [
        ("resnet18", "", "holds .* of the 180 tensors of 'resnet34' under timm's names"),
        ("resnet34", "model.", "holds 0 of the 180 tensors of 'resnet34' under timm's names"),
        ("resnet50", "", "is not of 'resnet34': size mismatch for "),
        ("test_vit", "", "holds 0 of the 180 tensors"),
        (None, "", "cut.safetensors' is not a whole safetensors file"),
    ],
)
def test_a_file_of_another_model_or_naming_is_refused(tmp_path, of, prefix, message):
    path = tmp_path / "cut.safetensors"
    if of:
        write_safetensors(path, {prefix + name: each for name, each in trained(of).items()})
    else:
        path.write_bytes(b"1234567890" * 10)
    with pytest.raises(WeightsError, match=message):
        build_encoder("resnet34", str(path))


def test_a_file_without_a_stage_or_statistics_is_refused(tmp_path):
    state, path = trained("resnet18"), tmp_path / "a.safetensors"
    for kept in (lambda name: "layer4" not in name, lambda name: "running_mean" not in name):
        write_safetensors(path, {name: each for name, each in state.items() if kept(name)})
        with pytest.raises(WeightsError, match="holds .* of the 100 tensors of 'resnet18'"):
            build_encoder("resnet18", str(path))
        assert build_encoder("resnet18", str(path), depth=4) if "layer4" not in "".join(read_shapes(path)) else True


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_file_may_be_a_path_and_its_first_layer_is_adapted(tmp_path, name):
    write_safetensors(tmp_path / "a.safetensors", timm.create_model(name).state_dict())
    assert build_encoder(name, tmp_path / "a.safetensors", in_channels=5)(torch.randn(1, 5, 160, 160))


def test_weights_that_cannot_be_what_they_are_given_as_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No encoder weights at '.*nowhere.safetensors'"):
        build_encoder("resnet18", tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="a file of weights ends in .safetensors"):
        build_encoder("resnet18", tmp_path / "a.pth")
    with pytest.raises(TypeError, match="encoder_weights is a dict; it can be None, a bool, 'imagenet', a tag or a path"):
        build_encoder("resnet18", dict(trained("resnet18")))


def test_other_channels_are_refused_where_timm_would_leave_the_first_layer_random(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", timm.create_model("tresnet_m").state_dict())
    with pytest.raises(ValueError, match="in_channels is 4, and timm cannot adapt the first layer of 'tresnet_m'"):
        build_encoder("tresnet_m", tmp_path / "a.safetensors", in_channels=4)


def test_a_file_of_a_model_whose_weights_normalise_differently_is_warned_of(tmp_path, caplog):
    write_safetensors(tmp_path / "a.safetensors", timm.create_model("efficientnet_b0").state_dict())
    build_encoder("efficientnet_b0", tmp_path / "a.safetensors")
    assert "timm's weights of 'efficientnet_b0' do not all normalise alike" in caplog.text and "NAME.TAG" in caplog.text
    caplog.clear()
    build_encoder("efficientnet_b0.ra4_e3600_r224_in1k", tmp_path / "a.safetensors")
    assert "normalise alike" not in caplog.text


@pytest.mark.parametrize(("name", "depth"), [("tf_efficientnet_lite0", 3), ("tf_efficientnet_lite0", 4), ("resnet18", 5)])
@pytest.mark.parametrize("size", [(480, 356), (449, 513)])
def test_offset_is_the_pixel_that_the_first_cell_is_centred_on(name, depth, size):
    """With equal positive weights and no activation, what a cell sees is symmetric about its centre."""
    encoder = build_encoder(name, depth=depth).eval().double()
    for path, module in list(encoder.named_modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            encoder.set_submodule(path, nn.Identity())
        elif isinstance(module, nn.MaxPool2d):
            encoder.set_submodule(path, nn.AvgPool2d(3, 2, 1))
    x = torch.ones(1, 3, *size, dtype=torch.float64, requires_grad=True)
    feature = encoder(x)[-1]
    row, column = (n // 2 for n in feature.shape[-2:])
    feature[0, 0, row, column].backward()
    seen = x.grad[0].sum(0)
    assert float(seen[0].sum() + seen[-1].sum() + seen[:, 0].sum() + seen[:, -1].sum()) == 0  # all that it sees is in the image
    top, left = encoder.offset(-1, size)
    for profile, center in ((seen.sum(1), top + 8 * row), (seen.sum(0), left + 8 * column)):
        assert float(profile @ torch.arange(len(profile)).double() / profile.sum()) == pytest.approx(center)


def test_stem_width_gives_a_deep_stem():
    with torch.device("meta"):
        state = build_encoder("resnet18", stem_width=32).model.state_dict()
    assert [tuple(state[f"conv1.{i}.weight"].shape) for i in (0, 3, 6)] == [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet18", "stem_width": 32, "weights": True}, "untrained stem"),
        ({"name": "mobilenetv2_050", "stem_width": 32}, "untrained stem"),
        ({"name": "resnet18", "dilation": "strided"}, "output stride is 32, not 8"),
        ({"name": "resnet18", "dilation": "dense"}, "dilation is 'dense'; it can be 'atrous'"),
        ({"name": "resnet18", "shortcut_pool": "none"}, "shortcut_pool is 'none'; it can be"),
        ({"name": "resnet18", "image_size": 256}, "'resnet18' takes images of any size; leave out encoder_image_size=256"),
        ({"name": "test_vit", "dilation": "uniform"}, "'test_vit' is resized, not dilated"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(**arguments)


def test_auxiliary_head_reads_the_module_it_is_given():
    net = PSPNet("mobilenetv2_035", None, classes=3, aux_head=True, aux_from="blocks.5.0", aux_channels=8).eval()
    x = torch.randn(1, 3, 33, 65)
    features, tapped = net.encoder.forward_with(x, "blocks.5.0")
    assert net.auxiliary_head[0][0].in_channels == tapped.shape[1] != features[-2].shape[1]
    torch.testing.assert_close(net(x, return_aux=True)[1], net.auxiliary_head(tapped, (33, 65)))
    assert not any(m._forward_hooks for m in net.modules())


def test_an_unknown_module_for_the_auxiliary_head_is_refused():
    with pytest.raises(ValueError, match="no module 'blocks.9'"):
        PSPNet("mobilenetv2_035", None, aux_head=True, aux_from="blocks.9")


@pytest.mark.parametrize(
    ("encoder", "module"),
    [("test_mambaout", "stages_1"), ("test_vit", "model.blocks.2"), ("test_efficientnet", "blocks.1.0.drop_path")],
)
def test_a_module_whose_output_is_no_feature_map_is_refused_for_the_auxiliary_head(encoder, module):
    with pytest.raises(ValueError, match=rf"aux_from is '{module}', whose output is .* not \(N, C, H, W\)"):
        PSPNet(encoder, None, aux_head=True, aux_from=module)


def test_the_auxiliary_head_reads_a_feature_map_inside_a_model_with_channels_last():
    net = PSPNet("test_mambaout", None, classes=2, aux_head=True, aux_from="stages_1.blocks.0.conv")
    assert net(torch.randn(2, 3, 64, 64), return_aux=True)[1].shape == (2, 2, 64, 64)
