"""Files of networks that stop at their stride, whose logits are smaller than the image."""

from dataclasses import replace

import pytest
import torch

from pspnet_zoo.deployment.export import _specification
from pspnet_zoo.deployment.graph import Deployed, trace
from pspnet_zoo.deployment.verify import verify
from pspnet_zoo.inference.scores import class_ids
from tests.deployment.conftest import tiny


@pytest.mark.parametrize("input_scale", [1.0, 1.5])
@pytest.mark.parametrize("output", ["ids", "ids+confidence"])
def test_the_ids_have_the_size_of_the_image_and_are_those_of_prediction(output, input_scale):
    network = tiny("test_resnet", upsampling=1)
    network.preprocess = replace(network.preprocess, input_scale=input_scale)
    image = torch.randint(0, 256, (1, 3, 44, 62), dtype=torch.uint8)
    spec = _specification(network, "float32", "uint8", output)
    found = torch.no_grad()(Deployed(network, spec))(image)
    ids = found if output == "ids" else found[0]
    assert ids.shape == (1, 44, 62) and (ids == class_ids(network, image)).float().mean() >= 0.999


@pytest.mark.parametrize(("input", "output"), [("float32", "ids"), ("uint8", "ids"), ("uint8", "logits")])
def test_the_program_is_right_at_other_sizes(input, output):
    network = tiny("test_resnet", upsampling=1)
    spec = _specification(network, "float32", input, output)
    program = torch.no_grad()(trace(network, spec).module())
    assert program(torch.zeros(1, 3, 33, 65, dtype=getattr(torch, input))).shape[-2:] == (33, 65)
    assert verify(network, spec, program)["largest_relative_difference"] <= 1e-4
