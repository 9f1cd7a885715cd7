import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as op
from torch.nn import functional as F

from pspnet_zoo.runtimes.cpu.winograd_openvino import convolution, use_winograd
from pspnet_zoo.runtimes.openvino import openvino_core

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def compiled(model: openvino.Model):
    return openvino_core().compile_model(model, "CPU", FLOAT32)


def network(channels: int, outputs: int, size: int = 3, stride: int = 1, padding: int = 1, dilation: int = 1) -> openvino.Model:
    """One convolution, for images of any size."""
    x = op.parameter([-1, channels, -1, -1], np.float32)
    weight = op.constant(torch.randn(outputs, channels, size, size).numpy())
    return openvino.Model([op.convolution(x, weight, [stride] * 2, [padding] * 2, [padding] * 2, [dilation] * 2)], [x])


@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
def test_it_equals_torch_in_double_precision_at_any_size(dilation):
    weight = torch.randn(5, 8, 3, 3)
    x = op.parameter([-1, 8, -1, -1], np.float32)
    run = compiled(openvino.Model([convolution(x, weight.numpy(), dilation)], [x]))
    for size in ((1, 8, 16, 32), (2, 8, 33, 17), (1, 8, 1, 5), (3, 8, 13, 50), (1, 8, 1, 1)):
        maps = torch.randn(size)
        wanted = F.conv2d(maps.double(), weight.double(), padding=dilation, dilation=dilation)
        found = torch.from_numpy(run(maps.numpy())[0])
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= 3e-5 * wanted.abs().max()


@pytest.mark.parametrize("dilation", [1, 2])
def test_wide_convolutions_are_replaced(dilation):
    model = network(256, 256, padding=dilation, dilation=dilation)
    x = torch.randn(1, 256, 9, 14).numpy()
    wanted = compiled(model.clone())(x)[0]
    assert use_winograd(model) == 1 and "Convolution" not in {node.get_type_name() for node in model.get_ops()}
    assert np.abs(compiled(model)(x)[0] - wanted).max() <= 3e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("options", [{"outputs": 255}, {"size": 1, "padding": 0}, {"stride": 2}, {"padding": 0}, {"dilation": 2}])
def test_other_convolutions_stay(options):
    model = network(**{"channels": 256, "outputs": 256, **options})
    assert use_winograd(model) == 0 and "Convolution" in {node.get_type_name() for node in model.get_ops()}
