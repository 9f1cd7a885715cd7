"""An exported file and its weights beside it belong together, or are refused."""

import shutil

import pytest
import torch

from pspnet_zoo import Labels, Predictor, PSPNet, WeightsError, export
from pspnet_zoo.deployment import onnx as onnx_files
from pspnet_zoo.runtimes.exported import files_of

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Two networks of one shape, each exported to both formats with its weights beside it."""
    monkeypatch.setattr(onnx_files, "_LIMIT", 0)
    for name in ("one", "two"):
        torch.manual_seed(len(name) + ord(name[0]))
        net = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8).eval()
        net.labels = Labels(("a", "b"))
        for ending in (".onnx", ".xml"):
            export(net, tmp_path / f"{name}{ending}")
    return tmp_path


def test_swapped_and_flipped_weights_are_refused(exported):
    for main, beside in ((".onnx", ".onnx.data"), (".xml", ".bin")):
        path, weights = exported / f"one{main}", exported / f"one{beside}"
        Predictor(path)
        good = weights.read_bytes()
        shutil.copyfile(exported / f"two{beside}", weights)
        with pytest.raises(WeightsError, match=f"The weights beside '.*one{main}' are damaged or of another file"):
            Predictor(path)
        weights.write_bytes(good[:-3] + bytes([good[-3] ^ 64]) + good[-2:])
        with pytest.raises(WeightsError, match="damaged or of another file"):
            Predictor(path)
        weights.write_bytes(good)
        Predictor(path)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_flipped_bit_in_a_file_itself_is_refused(files, tmp_path, runtime):
    for file in files_of(files[runtime]):
        shutil.copyfile(file, tmp_path / file.name)
    path = tmp_path / files[runtime].name
    good = path.read_bytes()
    at = good.index(b'version="opset') if runtime == "openvino" else len(good) // 2  # an attribute of a layer, and a weight
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    with pytest.raises(WeightsError, match="damaged, or was changed after its export|cannot be read"):
        Predictor(path)
    path.write_bytes(good)
    Predictor(path)
