"""Encoders of published checkpoints: stems, taps and their refusals."""

import pytest
import torch

from pspnet_zoo.models import PSPNet
from pspnet_zoo.models.encoder import Encoder


def test_stem_width_gives_a_deep_stem():
    with torch.device("meta"):
        state = Encoder("resnet18", stem_width=32).model.state_dict()
    assert [tuple(state[f"conv1.{i}.weight"].shape) for i in (0, 3, 6)] == [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet18", "stem_width": 32, "weights": True}, "untrained stem"),
        ({"name": "mobilenetv2_050", "stem_width": 32}, "untrained stem"),
        ({"name": "resnet18", "dilation": "strided"}, "output stride is 32, not 8"),
        ({"name": "resnet18", "dilation": "dense"}, "dilation is 'dense'; it can be 'atrous'"),
        ({"name": "resnet18", "shortcut_pool": "none"}, "shortcut_pool is 'none'; it can be"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Encoder(**arguments)


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
