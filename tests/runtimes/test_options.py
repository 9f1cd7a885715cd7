"""Every option in every runtime has its effect or is refused by name."""

import onnxruntime
import pytest
import torch

from pspnet_zoo.inference.scores import class_scores
from pspnet_zoo.runtimes import openvino as openvino_module
from pspnet_zoo.runtimes.onnx import OnnxRuntime, _providers
from pspnet_zoo.runtimes.open import open_runtime

RUNTIMES = ("torch", "onnx", "openvino")
TAKEN = [
    *((runtime, {"device": "cpu"}) for runtime in RUNTIMES),
    *((runtime, {"precision": "float32"}) for runtime in RUNTIMES),
    *((runtime, {"compile": False}) for runtime in RUNTIMES),
    *((runtime, {"fast": False}) for runtime in RUNTIMES),
    ("torch", {"fast": True}),
    ("openvino", {"fast": True}),
    *((runtime, {"threads": 1}) for runtime in RUNTIMES),
]
REFUSED = [
    ("torch", {"device": "cuda:99"}, "device is 'cuda:99'"),
    ("torch", {"device": "cpuu"}, "device is 'cpuu'"),
    ("onnx", {"device": "mps"}, "device is 'mps'; ONNX Runtime is used on"),
    ("onnx", {"device": "gpu"}, "device is 'gpu'; ONNX Runtime is used on"),
    ("onnx", {"device": "cuda"}, "device is 'cuda', but this ONNX Runtime has"),
    ("openvino", {"device": "cuda"}, "device is 'cuda'; OpenVINO has CPU"),
    *((runtime, {"precision": "float16"}, "precision is 'float16'") for runtime in RUNTIMES),
    *((runtime, {"precision": "int8"}, "precision is 'int8'") for runtime in RUNTIMES),
    ("onnx", {"precision": "bfloat16"}, "precision is 'bfloat16', and .*net.onnx' was exported in float32"),
    ("openvino", {"precision": "bfloat16"}, "precision is 'bfloat16', and .*net.xml' was exported in float32"),
    ("torch", {"compile": True, "fast": True}, "fast is True, which is for float32 weights on a CPU without compile"),
    ("onnx", {"compile": True}, "compile is for PyTorch"),
    ("openvino", {"compile": True}, "compile is for PyTorch"),
    ("onnx", {"fast": True}, "fast is True, and ONNX Runtime has no"),
    *((runtime, {"threads": 0}, "threads is 0; it must be 1 or more") for runtime in RUNTIMES),
]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("runtime", "options"), TAKEN, ids=str)
def test_an_option_that_is_taken_gives_the_same_scores(runtime, options, files):
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    wanted = class_scores(files["torch"], image)
    assert (class_scores(open_runtime(files[runtime], **options), image) - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize(("runtime", "options", "message"), REFUSED, ids=str)
def test_an_option_that_cannot_be_had_is_refused_by_name(runtime, options, message, files):
    with pytest.raises(ValueError, match=message):
        open_runtime(files[runtime], **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_neither_float32_nor_fast(dtype, network):
    network.to(dtype)
    for options in ({"precision": "float32"}, {"precision": "bfloat16"}, {"fast": True}):
        with pytest.raises(ValueError, match=rf"{next(iter(options))} is .*{dtype}"):
            open_runtime(network, device="cpu", **options)
    assert open_runtime(network, device="cpu")(torch.zeros(1, 3, 64, 64, dtype=dtype)).dtype == dtype


def test_options_have_their_effect(files, monkeypatch):
    x = torch.randn(1, 3, 64, 96)
    whole, half = open_runtime(files["torch"])(x), open_runtime(files["torch"], precision="bfloat16")(x)
    assert half.dtype == torch.bfloat16 or 1e-4 < (half - whole).abs().max() < 0.5
    open_runtime(files["torch"], threads=2)
    assert torch.get_num_threads() == 2
    replaced = []
    monkeypatch.setattr(openvino_module, "use_winograd", replaced.append)
    for fast, times in ((None, 1), (True, 2), (False, 2)):
        open_runtime(files["openvino"], fast=fast)
        assert len(replaced) == times
    sessions = []
    made = onnxruntime.SessionOptions
    monkeypatch.setattr(onnxruntime, "SessionOptions", lambda: sessions.append(made()) or sessions[-1])
    OnnxRuntime(files["onnx"], threads=1)
    assert sessions[0].intra_op_num_threads == 1


def test_onnx_runtime_is_given_the_number_of_the_gpu():
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    assert _providers(torch.device("cuda:1"), [cuda, cpu]) == [(cuda, {"device_id": 1}), cpu]
    assert _providers(None, [cuda, cpu]) == [(cuda, {"device_id": 0}), cpu]
    assert _providers(torch.device("cpu"), [cuda, cpu]) == _providers(None, [cpu]) == [cpu]
