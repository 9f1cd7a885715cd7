"""From a network to a file that runs without this package, checked before it is kept."""

import copy
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import torch
from filelock import FileLock, Timeout

from ..data.dataset import SegmentationDataset
from ..extras import missing_extra
from ..factory import load
from ..inference.scores import labels_of, number_of_ids
from ..model_source import OPENVINO_FILE, Format, ending_of, format_of
from ..models.pspnet import PSPNet
from ..runtimes.exported import UNSEALED, Exported, Output, Precision, beside_digest, seal
from ..runtimes.onnx import OnnxRuntime
from ..runtimes.openvino import OpenVinoRuntime
from ..storage.errors import message_of, naming
from ..storage.files import CONFIG_FILE, refuse_stream
from .graph import RuntimeCall, trace
from .quantize import Calibration
from .verify import verify

Step = Callable[[str], None]
"""Called with the step that begins, in a few words."""

MAX_SIDE = 16_384
"""Most pixels of a side of an image that a file or a comparison is made for."""
MAX_PIXELS = 50_000_000
"""Most pixels of such an image."""

_PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    "onnx": ("float32", "float16"),
    "openvino": ("float32", "float16", "bfloat16", "int8"),
    "program": ("float32", "float16", "bfloat16"),
    "executorch": ("float32",),
}
_DRAFT, _LOCK = ".draft", ".lock"
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def export(
    model: PSPNet | str | PathLike[str],
    path: str | PathLike[str],
    *,
    format: Format | None = None,
    precision: Precision = "float32",
    input: str = "float32",
    output: str = "logits",
    size: tuple[int, int] | None = None,
    calibration: str | PathLike[str] | SegmentationDataset | Sequence[Path] | None = None,
    step: Step | None = None,
) -> Path:
    """Write a network as an ONNX file, an OpenVINO network, a torch.export program or an ExecuTorch file.

    The number of images is free, and so are height and width, unless the encoder knows one size only. An ExecuTorch file takes one
    image of one size. The file holds labels,
    preprocessing and provenance, see `pspnet_zoo.runtimes.exported.Exported`. Before it is kept, it is run in its own runtime at
    three sizes and compared with the network; one that differs is not left behind. The path is replaced whole or not at all.

    Args:
        model: A network of any dtype on any device, or anything else that `pspnet_zoo.load` takes. It stays as it is.
        path: Ends in .onnx, .xml (with a .bin beside it), .pt2 or .pte; any other is a folder for OpenVINO's model.xml and
            model.bin. An ONNX network of more than 1.9 GB of weights gets them beside it, in NAME.onnx.data.
        format: "onnx", "openvino", "program" or "executorch", whose ending the path has; None goes by the path.
        precision: "float32"; "float16" and "bfloat16" store and compute in half the bytes, which loses some digits; "int8" needs
            `calibration`. OpenVINO's files store both as float16; this package runs the first in float32, the second in bfloat16.
        input: "float32" for (N, channels, H, W) normalised images, named "image"; "uint8" for (N, 3, H, W) RGB as it is.
        output: "logits" for (N, classes, H, W) float32; "ids" for (N, H, W) uint8, the most probable class, or where the network is
            multi-label for (N, classes, H, W) uint8 of 0 and 1; "ids+confidence" for its probability times 255 too, (N, H, W)
            uint8. Names the outputs too.
        size: For ExecuTorch, whose memory is planned: height and width of the images, in pixels.
        calibration: For int8, images like those that the file is for: a folder, files, or a dataset; at most 100 are used.
        step: Called with each step that begins.

    Returns:
        The path.

    Raises:
        ImportError: If a package is missing; the message says what to install.
        ValueError: If an argument is outside its range, the network cannot be exported, or the file is not right; if `input` is
            "uint8" and the network reads something else than three channels of 8 bits; or if the folder of an OpenVINO network is
            that of a checkpoint.
        OSError: If the path cannot be written.
        WeightsError: If the network cannot be loaded.
    """
    path = Path(path)
    kind = _format(path, format)
    _check(kind, precision, input, output, calibration is not None)
    network = load(model)
    spec = _specification(network, precision, input, output)
    if (kind == "executorch") != (size is not None) and not (kind == "executorch" and spec.image_size):
        raise ValueError(
            "ExecuTorch plans its memory: it needs the size of the images, height and width, and no other format takes it"
        )
    if size is not None:
        spec = replace(spec, image_size=_checked_size(size, spec))
    images = None if calibration is None else Calibration(calibration, spec)
    target = path / OPENVINO_FILE if kind == "openvino" and path.suffix.lower() != ".xml" else path
    if target.is_dir():
        raise IsADirectoryError(f"'{target}' is a folder; give the name of a file in it")
    if target.name == OPENVINO_FILE and (target.parent / CONFIG_FILE).is_file():
        raise ValueError(
            f"'{target.parent}' is the folder of a checkpoint, with {CONFIG_FILE}; with {OPENVINO_FILE} beside it, the exported "
            "network would be loaded instead. Give another folder or file"
        )
    refuse_stream(target)
    # files hold float32 or what `precision` says, whatever the network is computed in and on
    network = copy.deepcopy(network).cpu().float().eval()
    try:
        with naming(target), replacing(target) as draft:
            _write(network, spec, kind, draft, images, step or (lambda text: None))
    except ImportError as error:
        raise missing_extra("This export", kind if kind in ("openvino", "executorch") else "export", error) from None
    return path


def _write(network: PSPNet, spec: Exported, kind: Format, path: Path, images: Calibration | None, step: Step) -> None:
    """The files of a network at `path` and beside it, checked."""
    step("tracing the network")
    # OpenVINO takes float32 graphs, and chooses by itself where half precision will do
    program = trace(
        network,
        spec,
        torch.float32 if kind == "openvino" else _DTYPES.get(spec.precision, torch.float32),
        single=kind == "executorch",
    )
    if kind == "program":
        from . import program as files

        step("checking the file")
        files.write_checked(program, spec, path, network)
        return
    if kind == "executorch":
        from . import program as files

        step("converting it to ExecuTorch, and checking the file")
        files.write_executorch(program, spec, path, network)
        return
    from . import onnx

    step("converting it to ONNX")
    source = path if kind == "onnx" else path.with_suffix(".onnx")
    onnx.write_onnx(program, spec, source)
    onnx.describe(source, spec)
    if kind == "onnx":
        step("checking the file")
        found = verify(network, spec, OnnxRuntime(source, device="cpu").run)
        onnx.describe(source, replace(spec, check=found, beside_sha256=beside_digest(source), file_sha256=UNSEALED))
        seal(source)
        return
    from . import openvino

    step("converting it to OpenVINO")
    graph = openvino.read_onnx(source)
    check: Callable[[RuntimeCall], dict[str, Any]] = lambda run: verify(network, spec, run)  # noqa: E731
    if images is not None:
        step(f"quantizing it with {len(images)} images")
        graph = images.quantized(graph)
        check = lambda run: images.agreement(network, run)  # noqa: E731
    openvino.write_openvino(graph, spec, path)
    step("checking the file")
    found = check(OpenVinoRuntime(path).run)
    openvino.write_openvino(graph, replace(spec, check=found, beside_sha256=beside_digest(path), file_sha256=UNSEALED), path)
    seal(path)
    for file in path.parent.glob(f"{source.name}*"):
        file.unlink()


def _format(path: Path, format: str | None) -> Format:
    named = format_of(path.name)
    if format not in (None, *get_args(Format)):
        raise ValueError(f"format is '{format}'; it can be {', '.join(get_args(Format))}")
    if format is not None and named not in (None, format):
        raise ValueError(f"'{path}' ends as {named} does, and the format is {format}; give another path, or leave the format out")
    if format not in (None, "openvino", named):
        ending = ending_of(format)  # type: ignore[arg-type]
        raise ValueError(f"'{path}' does not end in {ending}, by which files of format {format} are known; add it")
    if format is None and named is None and path.suffix:
        raise ValueError(f"'{path}' ends in none of .onnx, .xml, .pt2 and .pte; give it one, or format openvino for a folder")
    return format or named or "openvino"  # type: ignore[return-value]


def _check(kind: Format, precision: str, input: str, output: str, calibrated: bool) -> None:
    for name, value, choices in (
        ("precision", precision, get_args(Precision)),
        ("input", input, ("float32", "uint8")),
        ("output", output, get_args(Output)),
    ):
        if value not in choices:
            raise ValueError(f"{name} is '{value}'; it can be {', '.join(choices)}")
    if precision not in _PRECISIONS[kind]:
        reason = (
            " (ONNX Runtime's own quantization lost a sixth of the mIoU here; OpenVINO's did not)" if precision == "int8" else ""
        )
        raise ValueError(f"precision '{precision}' is not for {kind}{reason}; it can be {', '.join(_PRECISIONS[kind])}")
    if (precision == "int8") != calibrated:
        raise ValueError("int8 needs calibration images, such as those it was trained on, and no other precision takes them")


def _specification(network: PSPNet, precision: Any, input: Any, output: Any) -> Exported:
    channels = network.config["in_channels"]
    if input == "uint8" and channels != 3:
        raise ValueError(f"input 'uint8' is for RGB images, and this network takes {channels} channels; use input 'float32'")
    if input == "uint8" and network.preprocess.white != 255:
        raise ValueError(
            f"input 'uint8' is for images of 8 bits, and this network reads values in which white is {network.preprocess.white:g}; "
            "use input 'float32'"
        )
    if input == "uint8" and network.image_size and network.preprocess.input_scale != 1:
        raise ValueError("This network takes one size and resizes images to it, which no graph does; use input 'float32'")
    if network.multilabel and (precision == "int8" or output == "ids+confidence"):
        what = "int8 is checked by" if precision == "int8" else "A confidence is of"
        raise ValueError(
            f"{what} the one class of each pixel, and this network is multi-label; export it in float32 or "
            "float16, with the output 'ids', a mask a class, or 'logits'"
        )
    activation = network.activation
    return Exported(
        input=input,
        output=output,
        classes=network.classes if output == "logits" else number_of_ids(network),
        channels=channels,
        image_size=network.image_size,
        precision=precision,
        activation=activation if isinstance(activation, str) else None,
        labels=network.labels if output == "logits" else labels_of(network),
        preprocess=network.preprocess,
        provenance=network.provenance,
        threshold=network.threshold,
        multilabel=network.multilabel,
        versions={
            name: found for name in ("pspnet-zoo", "torch", "onnx", "openvino", "nncf", "executorch") if (found := _version(name))
        },
        check={},
    )


def _checked_size(size: tuple[int, int], spec: Exported) -> tuple[int, int]:
    if spec.image_size not in (None, tuple(size)):
        raise ValueError(f"size is {size}, and this network takes {spec.image_size} only; leave size out")
    check_size(size)
    return (size[0], size[1])


def check_size(size: tuple[int, int]) -> None:
    """Refuse an image that no memory would hold, before it is made.

    Args:
        size: Height and width, in pixels.

    Raises:
        ValueError: If a side is not 1 to `MAX_SIDE`, or there are more than `MAX_PIXELS`.
    """
    height, width = size
    if not (min(size) >= 1 and max(size) <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise ValueError(
            f"size is {height}x{width}; height and width must be 1 to {MAX_SIDE:,} pixels, and their product at most {MAX_PIXELS:,}"
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class replacing:
    """A path in a hidden folder beside the target; what is written there takes the target's place if nothing goes wrong.

    Folders of exports that were killed are deleted by the next one to the same target: nobody holds their locks.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._cleanup = ExitStack()

    def __enter__(self) -> Path:
        parent, prefix = self.target.parent, f".{self.target.name}."
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.glob(f"{glob.escape(prefix)}*{_DRAFT}"):
                with suppress(Timeout), FileLock(left / _LOCK, timeout=0):
                    shutil.rmtree(left, ignore_errors=True)
            self.folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=_DRAFT))
            self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._cleanup.enter_context(FileLock(self.folder / _LOCK))
        except OSError as error:
            self._cleanup.close()
            raise OSError(f"'{self.target}' cannot be written: {message_of(error)}") from None
        return self.folder / self.target.name

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with self._cleanup:
            if kind is None:
                files = [file for file in self.folder.iterdir() if file.name != _LOCK]
                # the file that names the others is the last to come
                for file in sorted(files, key=lambda f: f.name == self.target.name):
                    os.replace(file, self.target.parent / file.name)
