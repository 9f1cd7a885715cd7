"""Models that are resized: what sizes they take, and what their maps become."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import Format

from pspnet_zoo import PSPNet
from pspnet_zoo.models.backbone import InputPadding
from pspnet_zoo.models.encoder import build_encoder
from pspnet_zoo.models.resized import FeatureResizing, Measured, measure

NEWER = pytest.mark.skipif(
    not timm.is_model("test_vit_relpos"),
    reason="tiny members of more families, and EfficientViT of any size, came with timm 1.0.31",
)


def measured(name: str, **options) -> Measured:
    return measure(name, **{"in_channels": 3, "depth": 5, "output_stride": 8, "image_size": None, "read": 2, **options})


@pytest.mark.parametrize(
    ("name", "native", "multiple", "size"),
    [
        ("test_vit", (16, 16), 16, None),  # position embeddings are made for each size
        ("eva02_tiny_patch14_224", (14, 14), 14, None),
        ("pvt_v2_b0", (4, 8, 16, 32), 32, None),
        pytest.param("efficientvit_m0", (16, 32, 64), 64, None, marks=NEWER),  # 224 pixels do not show the 64
        ("halonet26t", (2, 4, 8, 16, 32), 256, None),  # blocks of 8 cells at stride 32
        pytest.param("test_maxvit", (2, 4, 8, 16, 32), 160, None, marks=NEWER),  # windows of 5 cells at stride 32
        ("vit_so400m_patch14_siglip_384", (14, 14), 14, None),  # 384 is no multiple of 14
        ("levit_128s", (16, 32, 56), 1, (224, 224)),
        pytest.param("test_vit_relpos", (16, 16), 1, (160, 160), marks=NEWER),
    ],
)
def test_sizes_that_a_model_takes_are_measured(name, native, multiple, size):
    found = measured(name)
    assert (found.resizing.native_strides, found.padding.multiple, found.padding.size) == (native, multiple, size)


def test_a_plain_transformer_gives_its_last_block_and_one_at_two_thirds():
    assert measured("test_vit").options["out_indices"] == (3, 5)


@pytest.mark.parametrize(("output_stride", "strides"), [(8, (4, 8, 8, 8)), (16, (4, 8, 16, 16)), (32, (4, 8, 16, 32))])
def test_strides_beyond_the_output_stride_are_resized(output_stride, strides):
    assert measured("pvt_v2_b0", output_stride=output_stride).resizing.strides == strides


@pytest.mark.parametrize(("depth", "native"), [(5, (4, 8, 16, 32)), (4, (4, 8, 16)), (3, (4, 8))])
def test_depth_leaves_out_the_last_stages(depth, native):
    assert measured("pvt_v2_b0", depth=depth).resizing.native_strides == native


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_vit", {"depth": 4}, "encoder_depth is 4, but 'test_vit' has too few stages"),
        ("efficientvit_m0", {"depth": 3}, "encoder_depth is 3"),
        ("test_vit", {"depth": 3, "fuse": 2}, "encoder_depth is 3, but encoder_fuse=2 chooses the blocks"),
        ("pvt_v2_b0", {"image_size": 256}, "'pvt_v2_b0' takes images of any size"),
        ("levit_128s", {"image_size": "large"}, "timm .* does not build 'levit_128s'"),
    ],
)
def test_what_cannot_be_built_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        measured(name, **options)


def test_maps_are_those_of_timm_resized_and_cropped():
    encoder = build_encoder("pvt_v2_b0").eval()
    x = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        theirs = encoder.model(torch.nn.functional.pad(x, (0, 31, 0, 31)))
        ours = encoder(x)
    assert ours[0] is x and [f.shape[1] for f in ours] == encoder.out_channels
    assert [tuple(f.shape[-2:]) for f in ours[1:]] == [(25, 33), (13, 17), (13, 17), (13, 17)]
    torch.testing.assert_close(ours[1], theirs[0][..., :25, :33])
    resized = torch.nn.functional.interpolate(theirs[3], size=(16, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours[4], resized[..., :13, :17])


def test_channels_last_maps_are_permuted():
    found = measured("swin_tiny_patch4_window7_224")
    assert found.resizing.layout == Format.NHWC and found.channels == (96, 192, 384, 768)
    encoder = build_encoder("test_mambaout").eval()
    assert encoder(torch.randn(1, 3, 33, 65))[-1].shape == (1, encoder.out_channels[-1], 5, 9)


def test_sequences_become_maps_where_timm_cannot_tell_the_sides():
    resizing = FeatureResizing((16,), (16,), Format.NLC)
    [found] = resizing([torch.arange(6.0).view(1, 6, 1)], torch.empty(1, 3, 32, 48))
    assert found[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


@NEWER
def test_a_larger_image_than_the_model_knows_is_refused():
    encoder = build_encoder("test_vit_relpos").eval()
    assert encoder.image_size == (160, 160)
    assert encoder(torch.randn(1, 3, 97, 160))[-1].shape[-2:] == (13, 20)
    with pytest.raises(ValueError, match="up to 160x160 pixels, not 160x161. Use sliding-window"):
        encoder(torch.randn(1, 3, 160, 161))


@NEWER
def test_image_size_builds_for_larger_images_and_weights_follow(tmp_path):
    path = str(tmp_path / "vit.safetensors")
    save_file(timm.create_model("test_vit_relpos", num_classes=0).state_dict(), path)
    encoder = build_encoder("test_vit_relpos", path, image_size=(192, 256)).eval()
    assert encoder(torch.randn(1, 3, 190, 256))[-1].shape[-2:] == (24, 32)


def test_weights_that_cannot_follow_are_refused(tmp_path):
    path = str(tmp_path / "pit.safetensors")
    save_file(timm.create_model("pit_ti_224", num_classes=0).state_dict(), path)
    assert build_encoder("pit_ti_224", path).image_size == (224, 224)
    with pytest.raises(ValueError, match="do not load for images of \\(256, 256\\).*sliding-window"):
        build_encoder("pit_ti_224", path, image_size=256)


@NEWER
def test_image_size_is_part_of_the_config():
    net = PSPNet("test_vit_relpos", None, encoder_image_size=192)
    assert net.config["encoder_image_size"] == 192 and PSPNet(encoder_weights=None, **net.config).encoder.image_size == (192, 192)


@pytest.mark.parametrize("aux_head", [True, False])
@pytest.mark.parametrize("name", ["hrnet_w18_small", "pit_ti_224"])
def test_every_parameter_gets_a_gradient_where_timm_keeps_unread_branches(name, aux_head):
    net = PSPNet(name, None, psp_out_channels=8, aux_head=aux_head)
    keys = set(timm.create_model(name, features_only=True).state_dict())
    assert set(net.encoder.model.state_dict()) == keys
    out = net(torch.randn(2, 3, 64, 64), return_aux=aux_head)
    sum(o.sum() for o in (out if aux_head else (out,))).backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None]


@pytest.mark.parametrize(("multiple", "minimum"), [(8, 1), (32, 32), (64, 128)])
def test_padding_in_programs_is_the_same(multiple, minimum):
    pad = InputPadding(multiple, minimum)
    for height, width in ((1, 7), (32, 65), (128, 200)):
        x = torch.randn(2, 3, height, width)
        assert torch.equal(pad._pad_any(pad._pad_any(x, -2), -1), pad(x))
