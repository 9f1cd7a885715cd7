"""Reading the files of other projects without running what is in them."""

import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..storage.files import WeightsError, is_lfs_pointer, is_web_page

_FOREIGN = re.compile(r"(?:GLOBAL|REDUCE|BUILD|class|function) ([\w.]+\.\w+)")
_MOST_INFLATED = 4  # times the file's own size
_WRAPPERS = ("state_dict", "model_state", "model")


def read_checkpoint(path: Path) -> Any:
    """The object in a file that torch.save wrote, or of a .pdparams file: numbers, texts, containers and tensors, nothing else.

    Arrays of a .pdparams file are given as they are described there, for `state_dict_of`.

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
        text = str(error).strip()
        if foreign := _FOREIGN.search(text):
            raise WeightsError(
                f"'{path}' is not opened: it asks for '{foreign[1]}', which is not plain data and could run code"
            ) from None
        reason = type(error).__name__
        if text and "weights_only" not in text:  # torch advises to switch the safety off
            reason += f": {text.splitlines()[0]}"
        raise WeightsError(
            f"'{path}' cannot be read: it is damaged, cut short, or holds more than plain data ({reason}). Download it again from "
            "its source"
        ) from error


def state_dict_of(checkpoint: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of its wrapping: a training state around it, and "module." before each key.

    Args:
        checkpoint: From `read_checkpoint`.
        path: Of its file, for messages.

    Raises:
        WeightsError: If there is no state dict in it.
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
        if isinstance(value, _Array):
            value = value.tensor(f"'{path}': '{key}'")
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"'{path}' holds no state dict: its entry {key!r} is a {type(value).__name__}, not a tensor")
        if value.layout != torch.strided or value.is_quantized or value.is_nested or not value.is_cpu:
            raise WeightsError(f"'{path}' holds no plain state dict: '{key}' is not a dense tensor")
        tensors[key.removeprefix("module.")] = value
    return tensors


class _Dtype:
    """What a pickle says of a numpy dtype. numpy's own would believe a hostile state."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """What a pickle says of a numpy array."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def tensor(self, where: str) -> Tensor:
        """The array, if it is one of plain numbers.

        Raises:
            WeightsError: If it is not.
        """
        try:
            _, shape, dtype, is_fortran, data = self.state
            if dtype.code not in _NUMBERS or dtype.order not in "<>|=":
                raise ValueError(f"of type {dtype.order}{dtype.code}")
            content = data.encode("latin1") if isinstance(data, str) else data
            array = np.frombuffer(content, dtype.order + dtype.code).reshape(shape, order="F" if is_fortran else "C")
        except (TypeError, ValueError, AttributeError, UnicodeError) as error:
            raise WeightsError(f"{where} is no array of numbers ({error}). Download the file again from its source") from error
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1"}


def _encode(text: str, encoding: str) -> bytes:
    """Protocol 2 writes bytes as text, and this call to undo it."""
    if encoding != "latin1":
        raise WeightsError(f"This file is not opened: it asks for text in {encoding!r}, which no array is written in")
    return text.encode(encoding)


# all that a pickle of numpy arrays asks for, under the names of numpy 1 and 2
_STAND_INS: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda kind, shape, code: _Array(),
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Makes plain data, and stand-ins for numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise WeightsError(
                f"This file is not opened: it asks for '{module}.{name}', which is not plain data and could run code"
            )
        return _STAND_INS[module, name]


def _refuse_other_kinds(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(256)
    if is_web_page(head):
        raise WeightsError(f"'{path}' is a web page, not a checkpoint: the download went wrong. Fetch the file itself")
    if is_lfs_pointer(head):
        raise WeightsError(f"'{path}' is a Git LFS pointer. Fetch the file itself with 'git lfs pull'")
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                is_torchs = any(name.endswith("data.pkl") for name in archive.namelist())
                declared = sum(entry.file_size for entry in archive.infolist())
                size = path.stat().st_size
                if declared > _MOST_INFLATED * size:  # torch.save does not compress
                    raise WeightsError(f"'{path}' is not opened: {size:,} bytes would inflate to {declared:,}. Is it a checkpoint?")
                damaged = archive.testzip() if is_torchs else None  # torch does not compare the checksums
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
            raise WeightsError(f"'{path}' cannot be read: it is damaged ({error}). Download it again from its source") from error
        if not is_torchs:
            raise WeightsError(f"'{path}' is an archive. Unpack it, and give the file that was in it")
        if damaged:
            raise WeightsError(f"'{path}' cannot be read: '{damaged}' in it is damaged. Download it again from its source")
