"""OpenVINO's intermediate representation: NAME.xml with NAME.bin beside it."""

from pathlib import Path
from typing import Any

from ..runtimes.exported import KEY, Exported
from ..runtimes.openvino import openvino_core


def read_onnx(path: Path) -> Any:
    """The network of an ONNX or OpenVINO file, as an `openvino.Model`, with its constants folded.

    The fusion's weights are split, one part for each branch of the pyramid; NNCF quantizes, and `use_winograd` replaces,
    convolutions whose weights are constants.
    """
    from openvino.passes import ConstantFolding, Manager

    model = openvino_core().read_model(path)
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    return model


def write_openvino(model: Any, spec: Exported, path: Path) -> None:
    """Write an `openvino.Model` with its metadata."""
    import openvino

    model.set_rt_info(spec.to_json(), KEY)
    openvino.save_model(model, path, compress_to_fp16=spec.precision in ("float16", "bfloat16"))
