"""Opens a model in its runtime: PyTorch, ONNX Runtime, OpenVINO or ExecuTorch.

Every runtime is a `pspnet_zoo.inference.scores.SegmentationModel`, so prediction and evaluation work alike with all of them. Every
runtime takes the same options, or refuses the ones that it cannot honour by name; its results do not depend on the thread.
"""

from os import PathLike

import torch

from ..extras import missing_extra
from ..factory import load
from ..model_source import ExportedFile, parse_weights
from ..models.pspnet import PSPNet
from ..storage.errors import WeightsError
from .executorch import ExecutorchRuntime
from .exported import Precision
from .onnx import OnnxRuntime
from .openvino import OpenVinoRuntime
from .torch import TorchRuntime

Runtime = TorchRuntime | OnnxRuntime | OpenVinoRuntime | ExecutorchRuntime


def open_runtime(
    source: PSPNet | str | PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    compile: bool = False,
    fast: bool | None = None,
    threads: int | None = None,
) -> Runtime:
    """Open a model in its runtime: an exported file in its own, anything else that `load` takes in PyTorch.

    Args:
        source: A network, a name, a folder, a repository on the Hub, or an exported .onnx, .xml or .pte file or folder.
        device: Where to run; None for a GPU if there is one, except for exported OpenVINO files.
        precision: See the runtimes; None for that of the weights.
        compile: See `TorchRuntime`.
        fast: See the runtimes; None for the fastest arithmetic that differs only by rounding.
        threads: Number of CPU threads; None leaves the choice to the runtime.

    Raises:
        ImportError: If a runtime is missing; the message says what to install.
        ValueError: If an option is not for this model or runtime.
        WeightsError: If the model cannot be loaded.
    """
    found = source if isinstance(source, PSPNet) else parse_weights(source)
    if not isinstance(found, ExportedFile):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        network = load(source)
        runtime = TorchRuntime(network, device=device, precision=precision, compile=compile, fast=fast, threads=threads)
        if network is not source:  # nobody else has it
            network.to(runtime.device).to(memory_format=torch.channels_last)
        return runtime
    path, kind = found.path, found.format
    if kind == "program":
        raise WeightsError(
            f"'{path}' is a torch.export program, and reading one can run code that is in it. Load it by torch.export.load, if you "
            "trust its source, or export the network to ONNX or OpenVINO"
        )
    runtime, extra = {
        "onnx": (OnnxRuntime, "export"),
        "openvino": (OpenVinoRuntime, "openvino"),
        "executorch": (ExecutorchRuntime, "executorch"),
    }[kind]
    try:
        return runtime(path, device=device, precision=precision, compile=compile, fast=fast, threads=threads)
    except ImportError as error:
        raise missing_extra(f"'{path}'", extra, error) from None
