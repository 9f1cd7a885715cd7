"""Reading the files of other projects without running what is in them."""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .files import WeightsError

_CHUNK = 1 << 20

# what a pickle of numpy arrays needs, under the names of numpy 1 and 2; _codecs.encode makes bytes of a text in protocol 2
_ALLOWED = {
    (module, name)
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("ndarray", "dtype", "_reconstruct")
} | {("_codecs", "encode")}

_WRAPPERS = ("state_dict", "model_state", "model")


def file_digest(path: Path, algorithm: str) -> str:
    """The hexadecimal digest of a file: "sha256" or "sha1"."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def matches(path: Path, digest: str) -> bool:
    """Whether a file has the digest "ALGORITHM:FIRST_DIGITS"."""
    algorithm, _, digits = digest.partition(":")
    return file_digest(path, algorithm).startswith(digits)


def read_checkpoint(path: Path) -> Any:
    """The object in a file that torch.save wrote, or of a .pdparams file: numbers, texts, containers and tensors, nothing else.

    Raises:
        FileNotFoundError: If there is no file.
        WeightsError: If it is something else, damaged, or holds anything that is not plain data.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file at '{path}'")
    _refuse_other_kinds(path)
    try:
        if path.suffix == ".pdparams":
            with path.open("rb") as file:
                return _Unpickler(file, encoding="latin1").load()
        return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        reason = str(error).strip().splitlines()
        raise WeightsError(
            f"'{path}' cannot be read: it is damaged, cut short, or holds more than plain data "
            f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}). Download it again from its source"
        ) from error


def state_dict_of(checkpoint: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of its wrapping: a training state around it, and "module." before each key.

    Args:
        checkpoint: From `read_checkpoint`.
        path: Of its file, for messages.

    Raises:
        WeightsError: If there is no state dict in it, or a tensor is not finite.
    """
    state = checkpoint
    if isinstance(checkpoint, Mapping):
        state = next((checkpoint[key] for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"'{path}' holds no state dict, but a {type(state).__name__}")
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "StructuredToParameterName@@":  # PaddlePaddle's table of its own names
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            value = torch.from_numpy(np.array(value, order="C"))
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"'{path}' holds no state dict: its entry {key!r} is a {type(value).__name__}, not a tensor")
        if value.is_floating_point() and not value.isfinite().all():
            raise WeightsError(f"'{path}' is damaged: '{key}' has values that are not finite. Download it again from its source")
        tensors[key.removeprefix("module.")] = value
    return tensors


class _Unpickler(pickle.Unpickler):
    """Makes numpy arrays and plain data only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise WeightsError(
                f"This file is not opened: it asks for '{module}.{name}', which is not plain data and could run code"
            )
        if name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # numpy's own, wherever this numpy keeps it
        return super().find_class(module, name)


def _refuse_other_kinds(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(256).lstrip()
    if head[:1] == b"<":
        raise WeightsError(f"'{path}' is a web page, not a checkpoint: the download went wrong. Fetch the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"'{path}' is a Git LFS pointer. Fetch the file itself with 'git lfs pull'")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                raise WeightsError(f"'{path}' is an archive. Unpack it, and give the file that was in it")
