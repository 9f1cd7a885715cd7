"""Compares runtimes, which take turns, so that other work of the machine slows all of them alike."""

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..data.dataset import SegmentationDataset
from ..evaluation.evaluate import check_classes, check_pixels, evaluate
from ..extras import missing_extra
from ..factory import load
from ..inference.scores import as_logits, decision_of
from ..models.pspnet import PSPNet
from ..runtimes.open import Runtime, open_runtime
from ..runtimes.torch import TorchRuntime
from .export import check_size, export

RUNTIMES = {
    "torch": "PyTorch, float32, without this package's accelerations",
    "torch-fast": "PyTorch, float32, norms folded and wide 3x3 convolutions by Winograd's algorithm, as Predictor runs on a CPU",
    "torch-bfloat16": "PyTorch, bfloat16, norms folded",
    "onnx": "ONNX Runtime, float32",
    "openvino": "OpenVINO, float32",
    "openvino-bfloat16": "OpenVINO, bfloat16 where the processor has it",
    "openvino-int8": "OpenVINO, convolutions in int8 by NNCF; needs images to calibrate with",
}
"""Runtimes that can be compared, with a description of each."""


@dataclass(frozen=True, kw_only=True)
class RuntimeResult:
    """The measurements of one runtime."""

    runtime: str
    build_seconds: float
    """Seconds until it is ready, with export and quantization."""
    milliseconds: float
    """Median time of an image."""
    ratio: float
    """Median over the rounds of its time divided by that of the first runtime."""
    megabytes: float
    """Growth of the process's memory while it was built and run."""
    same_class: float
    """Fraction of the pixels with the class of PyTorch in float32, 0 to 1, on random noise or the dataset's first image."""
    miou: float | None
    """Mean intersection over union on the dataset, 0 to 1; None without a dataset."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The measurements of all runtimes on one machine."""

    rows: list[RuntimeResult]
    left_out: dict[str, str]
    """Runtimes that were left out, with the reason."""
    size: tuple[int, int]
    """Height and width of the timed image, in pixels."""
    rounds: int
    machine: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return asdict(self)


def compare(
    model: PSPNet | str | PathLike[str],
    size: tuple[int, int],
    *,
    names: Sequence[str] | None = None,
    rounds: int = 7,
    threads: int | None = None,
    calibration: Any = None,
    dataset: SegmentationDataset | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Build runtimes of a model, and time them in turns.

    Args:
        model: What `pspnet_zoo.load` takes.
        size: Height and width of the image, in pixels; a network of one size is timed at that one.
        names: Runtimes of `RUNTIMES`; None for all that are installed. Ratios are to the first one.
        rounds: Images for each runtime, after one to warm up.
        threads: CPU threads; None for each runtime's choice.
        calibration: See `pspnet_zoo.export`; None leaves int8 out.
        dataset: Dataset to measure mIoU on.
        progress: Called with the current work, and how many of how many steps of it are done.

    Raises:
        ValueError: If a runtime is unknown, the size is out of its range, see `check_size`, or the dataset has other classes or
            pixels than the network.
    """
    for name in names or ():
        if name not in RUNTIMES:
            raise ValueError(f"There is no runtime '{name}'; choose from {', '.join(RUNTIMES)}")
    check_size(size)
    network = load(model).eval()
    if dataset is not None:  # before the long work
        check_classes(network, dataset.labels)
        check_pixels(network, getattr(dataset, "preprocess", None))
    size = network.image_size or size
    wanted = list(names or RUNTIMES)
    say = progress or (lambda text, done, total: None)
    x = _image(network, size, dataset)
    with torch.inference_mode():
        reference = _ids(network(x), network)
    built: dict[str, _Built] = {}
    left_out = {name: reason for name in wanted if (reason := _missing(name, calibration))}
    wanted = [name for name in wanted if name not in left_out]
    with tempfile.TemporaryDirectory() as folder:
        for done, name in enumerate(wanted):
            say(f"building {name}", done, len(wanted))
            try:
                built[name] = _Built(name, network, Path(folder), threads, calibration, x)
            except ValueError as error:
                left_out[name] = str(error)
        for turn in range(rounds):
            say("timing", turn, rounds)
            for runtime in built.values():
                runtime.run(x)
        rows = []
        for done, (name, runtime) in enumerate(built.items()):
            if dataset is not None:
                say(f"mIoU of {name}", done, len(built))
            first = next(iter(built.values())).seconds
            rows.append(
                RuntimeResult(
                    runtime=name,
                    build_seconds=runtime.build_seconds,
                    milliseconds=1000 * median(runtime.seconds),
                    ratio=median(own / other for own, other in zip(runtime.seconds, first, strict=True)),
                    megabytes=runtime.megabytes,
                    same_class=(_ids(runtime.output, network) == reference).float().mean().item(),
                    miou=None if dataset is None else evaluate(runtime.runtime, dataset).miou,
                )
            )
        say("finished", len(rows), len(rows))
    return Comparison(rows=rows, left_out=left_out, size=size, rounds=rounds, machine=machine())


class _Built:
    """A runtime that has run once, and the times of its images."""

    def __init__(self, name: str, network: PSPNet, folder: Path, threads: int | None, calibration: Any, x: torch.Tensor) -> None:
        before, start = _resident(), time.perf_counter()
        self.runtime = build_runtime(name, network, folder, threads, calibration)
        self.build_seconds = time.perf_counter() - start
        self.seconds: list[float] = []
        self.output: Any = self.runtime(x)
        self.runtime(x)
        self.megabytes = max(_resident() - before, 0) / 1e6

    @torch.inference_mode()
    def run(self, x: torch.Tensor) -> None:
        start = time.perf_counter()
        self.output = self.runtime(x)
        self.seconds.append(time.perf_counter() - start)


def build_runtime(name: str, network: PSPNet, folder: Path, threads: int | None, calibration: Any) -> Runtime:
    """One of `RUNTIMES`; exported files go into the folder. `calibration` is that of `pspnet_zoo.export`."""
    runtime, _, precision = name.partition("-")
    if runtime == "torch":
        half = precision == "bfloat16"
        return TorchRuntime(
            network, precision="bfloat16" if half else "float32", fast=precision in ("fast", "bfloat16"), threads=threads
        )
    path = folder / (f"{name}.onnx" if runtime == "onnx" else name)
    options: dict[str, Any] = {"precision": precision or "float32"}
    if precision == "int8":
        options["calibration"] = calibration
    return open_runtime(export(network, path, **options), device="cpu", threads=threads)


def _missing(name: str, calibration: Any) -> str | None:
    """Why a runtime cannot be built, None if it can."""
    extras = {"onnx": ("export", ("onnx", "onnxscript", "onnxruntime")), "openvino": ("openvino", ("openvino", "nncf", "onnx"))}
    extra, modules = extras.get(name.partition("-")[0], ("", ()))
    for module in modules:
        if find_spec(module) is None:
            return str(missing_extra("It", extra, module))
    if name.endswith("int8") and calibration is None:
        return "it needs images: --calibration FOLDER, or --dataset with --data"
    return None


def _image(network: PSPNet, size: tuple[int, int], dataset: SegmentationDataset | None) -> torch.Tensor:
    """One normalised image of the size: the first of the dataset, or noise."""
    if dataset is not None:
        pixels = dataset[0][0][None]
        x = network.preprocess.normalize(torch.nn.functional.interpolate(pixels.float(), size=size, mode="bilinear"))
    else:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, network.config["in_channels"], *size, generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


def _ids(output: Any, network: PSPNet) -> torch.Tensor:
    """The ids in the output of a runtime of the network, decided as for prediction."""
    scores = output[0] if isinstance(output, tuple) else output
    return decision_of(network)(as_logits(scores, network.activation, network.classes, network.multilabel))


def _resident() -> int:
    """Resident memory of this process, in bytes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:  # other systems have no such file
        return 0


def machine() -> dict[str, Any]:
    """The hardware and versions that the numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("torch", "onnxruntime", "openvino", "nncf"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "512x1024".

    Raises:
        ValueError: If it is not that.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"size is '{text}'; it is height and width in pixels, such as 512x1024")
    return int(height), int(width)
