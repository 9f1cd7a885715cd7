"""What runs a network: PyTorch, ONNX Runtime or OpenVINO, each called with pictures as tensors and giving scores as tensors.

Every engine is a `pspnet_zoo.inference.scores.Network`, so that prediction and evaluation do not know which one they hold.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..extras import missing_extra
from ..factory import load
from ..meta import Labels, Preprocess
from ..models.pspnet import PSPNet
from ..storage.errors import WeightsError
from ..storage.files import file_digest, weights_digest
from .acceleration import Accelerated
from .exported import KEY, OPENVINO_FILE, Exported, files_of, foreign, format_of
from .winograd_openvino import use_winograd


class TorchEngine:
    """A network in PyTorch, which stays as it is.

    Args:
        network: In evaluation mode.
        device: Where to run it; it is moved there. None leaves it where it is.
        precision: "float32", or "bfloat16" for autocast.
        compile: Compile it by `torch.compile`: minutes at the first picture of a kind of size, for some speed after.
        fast: On a CPU, fold batch norms and take Winograd's algorithm where it pays, see `Accelerated`. Logits differ by rounding.
        threads: Of the CPU, for all of PyTorch in this process; None leaves them.

    Raises:
        ValueError: If the precision is unknown.
    """

    def __init__(
        self,
        network: PSPNet,
        *,
        device: str | torch.device | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        compile: bool = False,
        fast: bool = True,
        threads: int | None = None,
    ) -> None:
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {precision!r}; PyTorch runs 'float32' or 'bfloat16', exported files what they hold")
        if threads is not None:
            torch.set_num_threads(threads)
        self.network = network if device is None else network.to(device)
        self.precision = precision
        self._call: Callable[[Tensor], Any] = network
        if compile:
            self._call = torch.compile(network, dynamic=True)
        elif fast and self.device.type == "cpu" and self.dtype == torch.float32:
            self._call = Accelerated(network, winograd=precision == "float32")

    @property
    def preprocess(self) -> Preprocess:
        """What the network expects of a picture, as it is set now."""
        return self.network.preprocess

    @property
    def labels(self) -> Labels | None:
        """What the classes are, as they are set now."""
        return self.network.labels

    @property
    def provenance(self) -> dict[str, Any] | None:
        """Where the weights come from."""
        return self.network.provenance

    @property
    def classes(self) -> int:
        """Channels of the output."""
        return self.network.classes

    @property
    def activation(self) -> str | Callable[[], nn.Module] | None:
        """What the output goes through."""
        return self.network.activation

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the largest picture, in pixels; None for any."""
        return self.network.image_size

    @property
    def device(self) -> torch.device:
        """Where the input has to be."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the input."""
        return self.network.dtype

    @property
    def weights_sha256(self) -> str:
        """Of the file that `save_pretrained` writes."""
        return weights_digest(self.network.state_dict())

    def __call__(self, x: Tensor, /) -> Any:
        """As the network."""
        half = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()
        with half:
            return self._call(x)


class ExportedEngine:
    """What an exported network has in common in all runtimes.

    Args:
        path: Of the file.
        spec: What the file says of itself.
        run: Maps an array, as in `Exported.input`, to an array, as in `Exported.output`.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, path: Path, spec: Exported, run: Callable[[Any], Any]) -> None:
        self.path = path
        self.spec = spec
        self.labels: Labels | None = spec.labels
        self.provenance = spec.provenance
        self.classes = spec.classes
        self.image_size = spec.image_size
        self.activation: str | Callable[[], nn.Module] | None = "argmax" if spec.output == "ids" else spec.activation
        self.preprocess = spec.preprocess
        if spec.input == "uint8":  # normalised inside: until there, pixels of 0 to 255 with the mean colour at 0
            mean = tuple(m * 255 / spec.preprocess.range for m in spec.preprocess.mean)
            self._mean = torch.tensor(mean).view(-1, 1, 1)
            self.preprocess = replace(spec.preprocess, mean=mean, std=(1.0,) * len(mean), range=255.0, enlarge=1.0)
        self._run = run

    @property
    def weights_sha256(self) -> str:
        """Of the file that holds the weights."""
        return file_digest(files_of(self.path)[-1], "sha256")

    def run(self, x: Tensor) -> Tensor:
        """The input of the file, see `Exported.input`, to its output."""
        return torch.from_numpy(self._run(x.contiguous().numpy()))

    def __call__(self, x: Tensor, /) -> Tensor:
        """(N, channels, H, W) float32, normalised by `preprocess`, to the output of the file.

        Raises:
            ValueError: If the file takes one size, and this is another.
        """
        height, width = x.shape[-2:]
        if self.image_size is not None and self.image_size != (height, width):
            raise ValueError(
                f"'{self.path}' takes pictures of {self.image_size[0]}x{self.image_size[1]} pixels, larger ones in parts of that "
                f"size, and none of {height}x{width}; enlarge the picture, or use the network that it was exported from"
            )
        if self.spec.input == "uint8":
            x = (x + self._mean).round().clamp(0, 255).to(torch.uint8)
            x = x.flip(-3) if self.spec.preprocess.order == "BGR" else x
        return self.run(x)


class OnnxEngine(ExportedEngine):
    """An exported ONNX file in ONNX Runtime.

    Args:
        path: Of the file.
        device: "cuda" needs onnxruntime-gpu; None takes it where it works, else the CPU.
        threads: Of the CPU; None for as many as there are cores.

    Raises:
        ImportError: If onnxruntime is not installed.
        WeightsError: If the file is damaged, or was not made by `pspnet_zoo.export`.
        ValueError: If the device is not to be had.
    """

    def __init__(self, path: Path, *, device: str | torch.device | None = None, threads: int | None = None) -> None:
        import onnxruntime

        providers = _providers(None if device is None else torch.device(device).type, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; it warns of graphs that are right
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # its own classes, without a common one
            raise _unreadable(path, error) from None
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise foreign(path)
        name = session.get_inputs()[0].name
        super().__init__(path, Exported.from_json(text, path), lambda x: session.run(None, {name: x})[0])


class OpenVinoEngine(ExportedEngine):
    """An exported OpenVINO network on the CPU, in the precision that it was exported for; in float32 see `use_winograd`.

    Args:
        path: Of the .xml file, or the folder that holds model.xml.
        device: OpenVINO's own name of one, such as "GPU"; None for "CPU".
        threads: Of the CPU; None for as many as OpenVINO takes.

    Raises:
        ImportError: If openvino is not installed.
        WeightsError: If the files are damaged, or were not made by `pspnet_zoo.export`.
        ValueError: If the device is not to be had.
    """

    def __init__(self, path: Path, *, device: str | torch.device | None = None, threads: int | None = None) -> None:
        import openvino

        path = path / OPENVINO_FILE if path.is_dir() else path
        core = openvino.Core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise _unreadable(path, error) from None
        if not model.has_rt_info(KEY):
            raise foreign(path)
        spec = Exported.from_json(model.get_rt_info(KEY).value, path)
        name = "CPU" if device is None else str(device).upper()
        if name.partition(".")[0] not in core.available_devices:
            raise ValueError(f"device is '{device}'; OpenVINO has {', '.join(core.available_devices)} here")
        # its default is bfloat16 where the processor has it: for bfloat16 files, and for what int8 leaves, but not for the others
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"} if spec.precision in ("float32", "float16") else {}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        if name == "CPU" and spec.precision == "float32":
            use_winograd(model)  # fewer bits would be too few for it
        compiled = core.compile_model(model, name, settings if name == "CPU" else {})
        super().__init__(path, spec, lambda x: compiled(x)[0])


Engine = TorchEngine | OnnxEngine | OpenVinoEngine


def open_engine(
    source: PSPNet | str | PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    compile: bool = False,
    fast: bool = True,
    threads: int | None = None,
) -> Engine:
    """What runs a network: an exported file in its runtime, anything else that `load` takes in PyTorch.

    Args:
        source: A network, a name, a folder, a repository on the Hub, or an exported .onnx or .xml file or folder.
        device: Where to run; None for a GPU if there is one.
        precision: Of `TorchEngine`; an exported file is what it is.
        compile: Likewise.
        fast: Likewise.
        threads: Of the CPU; None leaves the choice to the runtime.

    Raises:
        ImportError: If a runtime is missing; the message says what to install.
        ValueError: If an option does not go with an exported file.
        WeightsError: If the network cannot be loaded.
    """
    kind = None if isinstance(source, PSPNet) else format_of(source)
    if kind is None or isinstance(source, PSPNet):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return TorchEngine(load(source), device=device, precision=precision, compile=compile, fast=fast, threads=threads)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"No file '{path}'")
    if precision != "float32" or compile:
        raise ValueError(f"'{path}' runs as it was exported; leave precision and compile out")
    if kind == "program":
        raise WeightsError(
            f"'{path}' is a torch.export program, and reading one can run code that is in it. Load it by torch.export.load, if you "
            "trust its source, or export the network to ONNX or OpenVINO"
        )
    try:
        return (OnnxEngine if kind == "onnx" else OpenVinoEngine)(path, device=device, threads=threads)
    except ImportError as error:
        raise missing_extra(f"'{path}'", "export" if kind == "onnx" else "openvino", error) from None


def _providers(device: str | None, available: list[str]) -> list[str]:
    """ONNX Runtime's names of what is to run the network, the first that can."""
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device is '{device}'; ONNX Runtime is used on 'cpu' or 'cuda'")
    cuda = "CUDAExecutionProvider"
    if device == "cuda" and cuda not in available:
        raise ValueError(f"device is 'cuda', but this ONNX Runtime has {', '.join(available)}; install onnxruntime-gpu")
    return [p for p in (cuda, "CPUExecutionProvider") if p in available and not (p == cuda and device == "cpu")]


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())
    return WeightsError(f"'{path}' cannot be read; it may be cut short. Export it again ({reason[:200]})")
