"""The meaning of a string that stands for a model, decided in this one place.

`parse` takes the first of these that fits:

1. A path that exists: an exported file (.onnx, .xml, .pt2, .pte, or a folder with model.xml), or else the folder of a checkpoint.
2. A string that ends like an exported file, which is missing then.
3. "org/repo" or "org/repo@revision": a repository on the Hugging Face Hub.
4. Any other string with a slash: a path, which is missing then.
5. A name of the zoo: `architecture.tag` or an upstream's id for a checkpoint, `pspnet_` and an encoder for an architecture.

A `Path` is a path, whatever it looks like. Imports nothing heavy, so that a wrong name is answered at once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from .zoo.registry import Checkpoint, find_checkpoint, is_checkpoint, parse_architecture

Format = Literal["onnx", "openvino", "program", "executorch"]

OPENVINO_FILE = "model.xml"
"""The file that makes a folder an exported OpenVINO network, beside model.bin."""

_FORMATS: Mapping[str, Format] = {".onnx": "onnx", ".xml": "openvino", ".pt2": "program", ".pte": "executorch"}
_REPOSITORY = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?", re.ASCII)


@dataclass(frozen=True)
class ExportedFile:
    """A file that `pspnet_zoo.export` wrote."""

    path: Path
    """The file itself, also where its folder was named."""
    format: Format


@dataclass(frozen=True)
class Folder:
    """A checkpoint on disk."""

    path: Path


@dataclass(frozen=True)
class Repository:
    """A checkpoint on the Hugging Face Hub."""

    name: str
    """ "org/repo"."""
    revision: str | None
    """Commit, tag or branch; None if none was named."""


@dataclass(frozen=True)
class Architecture:
    """A network without weights."""

    name: str
    encoder: str
    """The timm model that it is built on."""
    options: Mapping[str, Any]
    """Arguments of `PSPNet` that the name stands for."""


ModelSource = ExportedFile | Folder | Repository | Checkpoint | Architecture
"""A `Checkpoint` is an entry of the zoo."""


def parse(source: str | PathLike[str]) -> ModelSource:
    """Decide what a string or path stands for, by the order in this module's first lines.

    Raises:
        ValueError: If it is a name that the zoo does not know; the message has the closest names.
        FileNotFoundError: If it is a path that does not exist.
    """
    text, path = str(source), Path(source)
    if text and path.is_dir():  # "" is no path, though Path makes "." of it
        exported = path / OPENVINO_FILE
        return ExportedFile(exported, "openvino") if exported.is_file() else Folder(path)
    if format := format_of(path):
        if not path.exists():
            raise FileNotFoundError(f"No file '{text}'")
        return ExportedFile(path, format)
    if path.is_file():
        raise ValueError(
            f"'{text}' is a file that does not end in .onnx, .xml, .pt2 or .pte. A checkpoint of another project is converted "
            f"first: pspnet-zoo convert {text} -o FOLDER"
        )
    if isinstance(source, str) and (match := _REPOSITORY.fullmatch(source)):
        return Repository(match[1], match[2])
    if not isinstance(source, str) or "/" in source or len(path.parts) > 1:
        raise FileNotFoundError(f"No file or folder '{text}'")
    return parse_name(source)


def parse_weights(source: str | PathLike[str]) -> ExportedFile | Folder | Repository | Checkpoint:
    """`parse`, where an architecture stands for its default checkpoint.

    Raises:
        ValueError: If the zoo does not know the name, or has no weights for it.
        FileNotFoundError: If it is a path that does not exist.
    """
    found = parse(source)
    return find_checkpoint(found.name) if isinstance(found, Architecture) else found


def parse_name(name: str) -> Checkpoint | Architecture:
    """Decide what a name of the zoo stands for, whatever files there are.

    Raises:
        ValueError: If the zoo does not know it; the message has the closest names.
    """
    return find_checkpoint(name) if is_checkpoint(name) else Architecture(name, *parse_architecture(name))


def format_of(path: str | PathLike[str]) -> Format | None:
    """The format that a path stands for by its ending; None if it is none of an exported file."""
    return _FORMATS.get(Path(path).suffix.lower())


def ending_of(format: Format) -> str:
    """The ending by which a file of a format is known."""
    return next(ending for ending, each in _FORMATS.items() if each == format)
