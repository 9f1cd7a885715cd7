"""What quantization to int8 prints."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch.utils import cpp_extension

from pspnet_zoo.deployment.quantize import Calibration
from pspnet_zoo.meta import Preprocess


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
