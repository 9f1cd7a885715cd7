"""What the user wrote for a model: a name of the zoo, an architecture, a folder, a Hub repository or an exported file."""

from os import PathLike
from pathlib import Path
from typing import Literal

OPENVINO_FILE = "model.xml"
"""What a folder with an OpenVINO network holds, beside model.bin."""

Format = Literal["onnx", "openvino", "program"]

_FORMATS = {".onnx": "onnx", ".xml": "openvino", ".pt2": "program"}


def format_of(path: str | PathLike[str]) -> Format | None:
    """The format that a path stands for by its ending, or by what is in the folder; None if it is no exported network."""
    path = Path(path)
    if path.is_dir():
        return "openvino" if (path / OPENVINO_FILE).is_file() else None
    return _FORMATS.get(path.suffix.lower())  # type: ignore[return-value]
