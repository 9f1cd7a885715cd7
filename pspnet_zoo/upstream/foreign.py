"""The tensors in other projects' files, read without running what is in them.

torch.save writes a zip archive, or before torch 1.6 pickles with the storages after them; PaddlePaddle writes one pickle with NumPy
arrays. All are read by `pspnet_zoo.upstream.pickles`, so that what a training loop keeps beside the weights, such as a log's own
objects, is no obstacle and no danger.

Source: torch/serialization.py, `_save` and `_legacy_save`; numpy.ndarray.__reduce__.
"""

import lzma
import math
import mmap
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..storage.files import WeightsError, is_lfs_pointer, is_web_page
from .pickles import Name, PickleError, Stand, read_pickle

_MOST_INFLATED = 4  # times the file's own size
_WRAPPERS = ("state_dict", "model_state", "model")
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)  # and a NotImplementedError is a RuntimeError
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The state dict in a file of torch.save or PaddlePaddle, out of its wrapping, and the entry "meta" beside it.

    The wrapping is a training state around the state dict, and "module." before each key.

    Raises:
        FileNotFoundError: If there is no file.
        WeightsError: If it is something else, damaged, or its state dict holds anything but dense tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file at '{path}'")
    with path.open("rb") as file:
        head = file.read(256)
    if is_web_page(head):
        raise WeightsError(f"'{path}' is a web page, not a checkpoint: the download went wrong. Fetch the file itself")
    if is_lfs_pointer(head):
        raise WeightsError(f"'{path}' is a Git LFS pointer. Fetch the file itself with 'git lfs pull'")
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    _check_archive(archive, path)
                    return _state_dict(*_read_zip(archive), path)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _state_dict(*_read_pickles(data), path)
    except WeightsError:
        raise
    except (PickleError, ValueError, OSError, KeyError, EOFError, MemoryError, RuntimeError, *_ZIP_ERRORS) as error:
        raise WeightsError(
            f"'{path}' cannot be read: it is damaged, cut short, or no checkpoint ({str(error).strip() or type(error).__name__}). "
            "Download it again from its source"
        ) from error


@dataclass(frozen=True)
class _Storage:
    """A row of numbers in the file, which tensors are views of."""

    key: Any
    dtype: torch.dtype
    count: int

    @classmethod
    def of(cls, id: Any) -> Any:
        """The storage of a persistent id; what is no plain storage stays a `Stand`."""
        match id:
            case ("storage", Name() as kind, str() as key, _, int() as count, *rest) if kind in _DTYPES and rest in ([], [None]):
                return cls(key, _DTYPES[kind], count)
        return Stand("a storage that is not plain", id)


_DTYPES: Mapping[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_Bytes = Callable[[_Storage], bytes]
_Numbers = Callable[[_Storage], Tensor]


def _read_zip(archive: zipfile.ZipFile) -> tuple[Any, _Bytes]:
    """The content of a file of torch.save, and what gives the bytes of a storage in it."""
    names = set(archive.namelist())
    pickle = min((name for name in names if name.endswith("data.pkl")), key=len)
    folder = pickle.removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise PickleError("it was written on a big-endian machine")
    with archive.open(pickle) as file:
        content = read_pickle(file, _Storage.of)
    return content, lambda storage: archive.read(f"{folder}data/{storage.key}")


def _read_pickles(data: mmap.mmap) -> tuple[Any, _Bytes]:
    """The content of a pickle, or of the file of a torch before 1.6: pickles, and the storages after them."""
    storages: dict[str, _Storage] = {}

    def remembered(id: Any) -> Any:
        storage = _Storage.of(id)
        if isinstance(storage, _Storage):
            storages[storage.key] = storage
        return storage

    content = read_pickle(data)
    if not (isinstance(content, int) and content == _TORCH_MAGIC):
        return content, lambda storage: b""
    for _ in ("version of the format", "sizes of numbers on that machine"):
        read_pickle(data)
    content, keys = read_pickle(data, remembered), read_pickle(data)
    places: dict[str, tuple[int, int]] = {}
    for key in keys if isinstance(keys, list) else ():
        count = int.from_bytes(data.read(8), "little")
        if not isinstance(key, str) or key not in storages or count != storages[key].count:
            raise PickleError("the table of its storages is damaged")
        start, size = data.tell(), count * storages[key].dtype.itemsize
        if start + size > len(data):
            raise PickleError("it ends too early")
        places[key] = start, start + size
        data.seek(start + size)
    return content, lambda storage: data[slice(*places[storage.key])]


def _state_dict(content: Any, read: _Bytes, path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    checkpoint = _mapping(content)
    wrapped = (_mapping(checkpoint.get(key)) for key in _WRAPPERS)
    state = next((entries for entries in wrapped if entries), checkpoint)
    if not state:
        if isinstance(content, Stand):
            raise WeightsError(_foreign(path, content))
        raise WeightsError(f"'{path}' holds no state dict, but a {type(content).__name__}")
    left = _MOST_INFLATED * path.stat().st_size

    @lru_cache(maxsize=1)  # many tensors may be views of one storage, which is copied once
    def numbers(storage: _Storage) -> Tensor:
        return torch.frombuffer(bytearray(read(storage)), dtype=storage.dtype)

    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "StructuredToParameterName@@":  # PaddlePaddle's table of its own names
            continue
        if not isinstance(key, str) or not isinstance(value, Stand):
            entry = f"'{key[:80]}'" if isinstance(key, str) else f"of a {type(key).__name__}"
            raise WeightsError(f"'{path}' holds no state dict: its entry {entry} is a {type(value).__name__}, not a tensor")
        try:
            tensor = _tensor(value, numbers, left)
        except (TypeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
            raise WeightsError(
                f"'{path}': '{key}' is no array of numbers ({error}). Download the file again from its source"
            ) from None
        if tensor is None:
            raise WeightsError(_foreign(path, value, key))
        left -= tensor.nbytes
        tensors[key.removeprefix("module.")] = tensor
    return tensors, _mapping(checkpoint.get("meta"))


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else value.entries if isinstance(value, Stand) else {}


def _foreign(path: Path, value: Stand, key: str | None = None) -> str:
    where = f"its entry '{key}' asks" if key else "it asks"
    return f"'{path}' is not opened: {where} for '{value.kind[:200]}', which is not plain data and could run code"


def _tensor(value: Stand, read: _Numbers, most: int) -> Tensor | None:
    """The dense tensor or NumPy array that a pickle describes; None if it describes something else.

    Raises:
        ValueError, TypeError, IndexError: If the description makes no sense, or it would take more than `most` bytes.
    """
    if value.kind in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        if not isinstance(value.args, tuple) or not isinstance(value.args[0], Stand):  # a list could hold the parameter itself
            return None
        value = value.args[0]
    if value.kind in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        storage, offset, size, stride = value.args[:4]
        return _view(storage, offset, size, stride, read, most) if isinstance(storage, _Storage) else None
    if value.kind in ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"):
        return _array(value.state, most)
    return None


def _view(storage: _Storage, offset: Any, size: Any, stride: Any, read: _Numbers, most: int) -> Tensor:
    _check_numbers((offset, *size, *stride))
    count = math.prod(size)
    if count * storage.dtype.itemsize > most:
        raise ValueError(f"of {count:,} numbers, more than the file could hold")
    if count == 0:
        return torch.empty(size, dtype=storage.dtype)
    numbers = read(storage)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= len(numbers):
        raise ValueError("larger than its storage")
    # a copy: a view would keep all of its storage, and two of one storage would change together
    return numbers.as_strided(size, stride, offset).clone()


def _array(state: Any, most: int) -> Tensor:
    _, shape, dtype, is_fortran, data = state
    if not isinstance(dtype, Stand):
        raise ValueError("without a type")
    code, order = dtype.args[0], dtype.state[1]
    if not isinstance(code, str) or code not in _NUMBERS or order not in ("<", ">", "|", "="):
        raise ValueError("of another type than numbers")
    if isinstance(data, Stand) and data.kind == "_codecs.encode" and data.args[1] == "latin1":
        data = data.args[0]  # protocol 2 writes bytes as text
    _check_numbers(shape)
    content = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(content, bytes) or len(content) > most:
        raise ValueError("without bytes")
    array = np.frombuffer(content, order + code).reshape(shape, order="F" if is_fortran else "C")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1"}


def _check_numbers(numbers: Any) -> None:
    if not isinstance(numbers, tuple) or not all(isinstance(number, int) and 0 <= number < 1 << 48 for number in numbers):
        raise ValueError("with sizes that are no numbers of 0 or more")


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a zip archive that is not of torch.save, would inflate, or is damaged."""
    if not any(name.endswith("data.pkl") for name in archive.namelist()):
        raise WeightsError(f"'{path}' is an archive. Unpack it, and give the file that was in it")
    declared, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if declared > _MOST_INFLATED * size:  # torch.save does not compress
        raise WeightsError(f"'{path}' is not opened: {size:,} bytes would inflate to {declared:,}. Is it a checkpoint?")
    if damaged := archive.testzip():  # also what is beside the weights
        raise WeightsError(f"'{path}' cannot be read: '{damaged}' in it is damaged. Download it again from its source")
