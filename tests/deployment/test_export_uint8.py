"""Files that take photos as they are, with the preprocessing inside."""

from dataclasses import replace

import pytest
import torch

from pspnet_zoo import Predictor
from pspnet_zoo.deployment.export import export
from pspnet_zoo.deployment.graph import enlarged
from pspnet_zoo.deployment.triton import write_repository
from pspnet_zoo.inference.scores import class_scores, size_factor
from pspnet_zoo.runtimes.open import open_runtime
from tests.deployment.conftest import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_uint8_is_for_three_channels(tmp_path):
    with pytest.raises(ValueError, match="takes 4 channels"):
        export(tiny("test_resnet", in_channels=4), tmp_path / "street.onnx", input="uint8")


@pytest.mark.parametrize("factor", [1.25, 1.5, 2, 1.1, 4 / 3])
def test_sides_are_enlarged_as_by_rounding(factor):
    sides = [side for side in range(1, 2000) if (2 * side * factor) % 2 != 1]  # halves go up
    assert [enlarged(side, factor) for side in sides] == [round(side * factor) for side in sides]


def test_a_network_that_enlarges_images_does_so_inside(tmp_path):
    network = tiny("test_resnet")
    network.preprocess = replace(network.preprocess, input_scale=1.5)
    runtime = open_runtime(export(network, tmp_path / "street.onnx", input="uint8"))
    image = torch.randint(0, 256, (1, 3, 44, 62), dtype=torch.uint8)
    found, wanted = class_scores(runtime, image).argmax(dim=1), Predictor(network)(image[0].permute(1, 2, 0).numpy()).mask
    assert (found[0].numpy() == wanted).mean() >= 0.999


@pytest.mark.slow
def test_an_image_that_the_network_does_not_enlarge_is_shrunk_before_the_file_that_does(tmp_path):
    network = tiny("test_resnet")
    network.preprocess = replace(network.preprocess, input_scale=1.5, max_pixels=44 * 62)
    runtime = open_runtime(export(network, tmp_path / "street.onnx", input="uint8"))
    for size in ((22, 31), (33, 62), (44, 62), (88, 124)):
        assert size_factor(runtime.preprocess, *size) * 1.5 == pytest.approx(size_factor(network.preprocess, *size), rel=1e-3)
    seen, run = [], runtime._run
    runtime._run = lambda x: seen.append(x.shape[-2:]) or run(x)
    assert class_scores(runtime, torch.randint(0, 256, (1, 3, 88, 124), dtype=torch.uint8)).shape[-2:] == (29, 41)
    assert seen == [(29, 41)] and [enlarged(side, 1.5) for side in seen[0]] == [44, 62]


def test_uint8_is_for_eight_bits(tmp_path):
    network = tiny("test_resnet")
    network.preprocess = replace(network.preprocess, white=65535.0)
    with pytest.raises(ValueError, match="for images of 8 bits, and this network reads values in which white is 65535"):
        export(network, tmp_path / "street.onnx", input="uint8")
    with pytest.raises(ValueError, match="use input 'float32'"):
        write_repository(network, tmp_path / "models", name="street")
    assert not list(tmp_path.glob("**/*.onnx"))
