"""What an exported network says of itself: the metadata that `pspnet_zoo.export` writes into the file."""

import json
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from ..meta import Labels, Preprocess
from ..storage.errors import WeightsError

KEY = "pspnet_zoo"
"""The name of the entry: of an ONNX file's metadata_props, of an OpenVINO model's rt_info, of a program's extra files."""
OPENVINO_FILE = "model.xml"
"""What a folder with an OpenVINO network holds, beside model.bin."""

_VERSION = 1
_FORMATS = {".onnx": "onnx", ".xml": "openvino", ".pt2": "program"}

Format = Literal["onnx", "openvino", "program"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What a program has to know to use the network, and where it comes from."""

    input: Literal["float32", "uint8"]
    """"float32": (N, channels, H, W), normalised by `preprocess`. "uint8": (N, 3, H, W), RGB, 0 to 255; normalised inside."""
    output: Literal["logits", "ids"]
    """"logits": (N, classes, H, W) float32. "ids": (N, H, W), the likeliest class, uint8 (int32 above 256 classes)."""
    classes: int
    channels: int
    """Of the input."""
    image_size: tuple[int, int] | None
    """Height and width of the only picture that the network takes, in pixels; None for any."""
    precision: Precision
    activation: str | None
    """What the logits went through, by smp's names; None for nothing."""
    labels: Labels | None
    preprocess: Preprocess
    provenance: dict[str, Any] | None
    """Where the weights come from, as in a checkpoint's config.json."""
    versions: dict[str, str]
    """Of the packages that made the file."""
    check: dict[str, Any]
    """What the comparison with the network found before the file was kept."""

    def to_json(self) -> str:
        """Everything as a JSON object, with the version of this format."""
        return json.dumps({"format_version": _VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, path: Path) -> "Exported":
        """What `to_json` wrote.

        Raises:
            WeightsError: If it is something else, naming the file.
        """
        try:
            values = json.loads(text)
            if values.pop("format_version") != _VERSION:
                raise ValueError("it is of another version of pspnet_zoo")
            labels, preprocess, size = values["labels"], values["preprocess"], values["image_size"]
            values["labels"] = Labels(tuple(labels["names"]), tuple(map(tuple, labels["colors"]))) if labels else None
            values["preprocess"] = Preprocess(**{**preprocess, "mean": tuple(preprocess["mean"]), "std": tuple(preprocess["std"])})
            values["image_size"] = tuple(size) if size else None
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(f"The metadata '{KEY}' in '{path}' cannot be used: {error!r}. Export the network again") from None


def format_of(path: str | PathLike[str]) -> Format | None:
    """The format that a path stands for by its ending, or by what is in the folder; None if it is no exported network."""
    path = Path(path)
    if path.is_dir():
        return "openvino" if (path / OPENVINO_FILE).is_file() else None
    return _FORMATS.get(path.suffix.lower())  # type: ignore[return-value]


def files_of(path: Path) -> list[Path]:
    """All files of an exported network, by the one that is opened."""
    beside = {".xml": path.with_suffix(".bin"), ".onnx": path.with_name(f"{path.name}.data")}.get(path.suffix.lower())
    return [path, *([beside] if beside and beside.is_file() else [])]


def foreign(path: Path) -> WeightsError:
    """The error for a network that carries no metadata of ours."""
    return WeightsError(
        f"'{path}' was not made by pspnet-zoo export: it lacks the metadata '{KEY}', so its classes and preprocessing are unknown"
    )
