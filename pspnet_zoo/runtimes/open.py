"""Opens a model in its runtime: PyTorch, ONNX Runtime or OpenVINO.

Every runtime is a `pspnet_zoo.inference.scores.Network`, so that prediction and evaluation do not know which one they hold.
"""

from os import PathLike
from typing import Literal

import torch

from ..extras import missing_extra
from ..factory import load
from ..model_source import ExportedFile, parse_weights
from ..models.pspnet import PSPNet
from ..storage.errors import WeightsError
from .onnx import OnnxRuntime
from .openvino import OpenVinoRuntime
from .torch import TorchRuntime

Runtime = TorchRuntime | OnnxRuntime | OpenVinoRuntime


def open_runtime(
    source: PSPNet | str | PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    compile: bool = False,
    fast: bool = True,
    threads: int | None = None,
) -> Runtime:
    """What runs a network: an exported file in its runtime, anything else that `load` takes in PyTorch.

    Args:
        source: A network, a name, a folder, a repository on the Hub, or an exported .onnx or .xml file or folder.
        device: Where to run; None for a GPU if there is one.
        precision: Of `TorchRuntime`; an exported file is what it is.
        compile: Likewise.
        fast: Likewise.
        threads: Of the CPU; None leaves the choice to the runtime.

    Raises:
        ImportError: If a runtime is missing; the message says what to install.
        ValueError: If an option does not go with an exported file.
        WeightsError: If the network cannot be loaded.
    """
    found = source if isinstance(source, PSPNet) else parse_weights(source)
    if not isinstance(found, ExportedFile):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return TorchRuntime(load(source), device=device, precision=precision, compile=compile, fast=fast, threads=threads)
    path, kind = found.path, found.format
    if precision != "float32" or compile:
        raise ValueError(f"'{path}' runs as it was exported; leave precision and compile out")
    if kind == "program":
        raise WeightsError(
            f"'{path}' is a torch.export program, and reading one can run code that is in it. Load it by torch.export.load, if you "
            "trust its source, or export the network to ONNX or OpenVINO"
        )
    try:
        return (OnnxRuntime if kind == "onnx" else OpenVinoRuntime)(path, device=device, threads=threads)
    except ImportError as error:
        raise missing_extra(f"'{path}'", "export" if kind == "onnx" else "openvino", error) from None
