"""Quantization to int8: its check, and what it prints."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils import cpp_extension

from pspnet_zoo import PSPNet
from pspnet_zoo.deployment.export import _specification
from pspnet_zoo.deployment.quantize import Calibration
from pspnet_zoo.deployment.verify import logits_of
from pspnet_zoo.inference.scores import to_luma
from pspnet_zoo.meta import Preprocess


@pytest.mark.parametrize("classes", [1, 2])
def test_a_file_with_other_ids_by_the_threshold_is_not_kept(tmp_path, classes):
    Image.fromarray(np.zeros((33, 65, 3), np.uint8)).save(tmp_path / "a.png")
    network = PSPNet("test_efficientnet", None, classes=classes, psp_out_channels=16).eval()
    network.threshold = 0.7
    head = network.segmentation_head[0]
    torch.nn.init.zeros_(head.weight)
    head.bias.data.copy_(torch.tensor([0.0, 0.4])[-classes:])  # id 1 has the probability 0.6
    spec = _specification(network, "int8", "float32", "logits")
    calibration, shift = Calibration(tmp_path, spec), torch.tensor([0.0, 1.0])[-classes:].view(-1, 1, 1)
    kept = calibration.agreement(network, lambda images: logits_of(network, spec, images) - shift)
    assert kept["fraction_of_pixels_with_the_same_class"] == 1
    with pytest.raises(ValueError, match=r"In int8, 0\.0% of the pixels keep their class"):
        calibration.agreement(network, lambda images: logits_of(network, spec, images) + shift)


def test_a_network_of_gray_images_is_calibrated_on_the_gray_that_it_is_given_in_prediction(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (33, 65, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    network = PSPNet("test_efficientnet", None, classes=2, in_channels=1, psp_out_channels=16).eval()
    calibration = Calibration(tmp_path, spec := _specification(network, "int8", "float32", "logits"))
    found = torch.from_numpy(calibration.read(tmp_path / "a.png"))
    wanted = network.preprocess.normalize(to_luma(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
    assert found.shape == (1, 1, 33, 65) and torch.equal(found, wanted)
    agreed = calibration.agreement(network, lambda images: logits_of(network, spec, images))
    assert agreed["fraction_of_pixels_with_the_same_class"] == 1


def test_quantization_says_nothing_of_cuda_and_hides_no_other_warning(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    find_cuda = cpp_extension._find_cuda_home
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    logger = logging.getLogger(cpp_extension.__name__)
    said, handler = [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)

    def quantize(graph, data, **_):
        find_cuda()  # as the import of nncf.torch does
        logger.warning("another warning")
        return graph

    fake = SimpleNamespace(
        set_log_level=lambda level: None,
        quantize=quantize,
        Dataset=lambda *arguments: arguments,
        QuantizationPreset=SimpleNamespace(MIXED="mixed"),
    )
    monkeypatch.setitem(sys.modules, "nncf", fake)
    photos = SimpleNamespace(preprocess=Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3))
    assert Calibration(tmp_path, photos).quantized("graph") == "graph"
    assert said == ["another warning"]
    find_cuda()
    assert "No CUDA runtime is found" in said[-1]
