"""A checkpoint on disk: `model.safetensors` and a complete `config.json` in one folder; and the cache folder.

Tensors and plain data only: what a network is, `models/pretrained.py` knows. Nothing here opens a pickle.
"""

import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import WeightsError as WeightsError
from .errors import naming

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MODEL_CLASS = "pspnet_zoo.PSPNet"  # a dotted name, so that smp.from_pretrained does not take the folder for its own PSPNet

_WEIGHTS_METADATA = {"format": "pt"}
_CHUNK = 1 << 20
_MOST_TENSORS = 100_000  # a network of 1000 layers has a twentieth of that; each takes time and memory of its own
_LONGEST_CONFIG = 16 << 20  # bytes


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `config.json`, each whole or not at all; equal tensors give equal bytes.

    The config has the digest of the weights, so that one file of each of two checkpoints is not taken for a pair.

    Raises:
        WeightsError: If the config cannot be written as JSON, as with a callable activation.
        OSError: If the folder cannot be written.
    """
    data = _serialize(tensors, _WEIGHTS_METADATA)
    digest = hashlib.sha256(data).hexdigest()
    try:
        text = json.dumps({"_model_class": MODEL_CLASS, **config, "weights_sha256": digest}, indent=2) + "\n"
    except TypeError as error:
        raise WeightsError(
            f"This model cannot be saved: its config is not JSON ({error}). Use smp's names for activations"
        ) from None
    write_atomically(folder / WEIGHTS_FILE, data)
    write_atomically(folder / CONFIG_FILE, text.encode())


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's `config.json`, with the keys "model", "preprocess", "labels" and "provenance".

    Raises:
        WeightsError: If it is missing, damaged, or not of this package.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise WeightsError(f"No '{path}'. A checkpoint is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    if path.stat().st_size > _LONGEST_CONFIG:
        raise WeightsError(f"'{path}' has {path.stat().st_size:,} bytes; a config has at most {_LONGEST_CONFIG:,}")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"'{path}' is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("_model_class") != MODEL_CLASS:
        raise WeightsError(f"'{path}' is not a checkpoint of pspnet_zoo: its _model_class is not '{MODEL_CLASS}'")
    missing = [key for key in ("model", "preprocess", "labels", "provenance") if key not in config]
    if missing:
        raise WeightsError(f"'{path}' lacks {', '.join(missing)}")
    for key in ("model", "preprocess", "labels", "provenance"):
        if not isinstance(config[key], dict) and (config[key] is not None or key in ("model", "preprocess")):
            raise WeightsError(f"'{path}' is damaged: its {key} is a {type(config[key]).__name__}, not an object. Copy it again")
    return config


def update_config(folder: Path, **values: Any) -> None:
    """Replace values of a checkpoint's `config.json`, whole or not at all; the weights stay as they are.

    Raises:
        WeightsError: If the file is missing, damaged, or not of this package.
    """
    config = {**read_config(folder), **values}
    write_atomically(folder / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())


def check_pair(config: Mapping[str, Any], weights: Path, known: str | None = None) -> None:
    """Refuse weights that were not saved with the config beside them.

    Args:
        config: From `read_config`; one without "weights_sha256" fits any weights.
        weights: The `model.safetensors` beside it.
        known: Its sha256, where it is known already; None to compute it.

    Raises:
        WeightsError: If the digest is another.
    """
    digest = config.get("weights_sha256")
    if digest is not None and digest != (known or file_digest(weights, "sha256")):
        raise WeightsError(
            f"'{weights}' is not the file that '{CONFIG_FILE}' beside it was saved with, or is damaged: its sha256 is not "
            f"{str(digest)[:64]}. Save or copy both again; if you changed the weights, remove weights_sha256 from the config"
        )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped, not copied.

    Raises:
        WeightsError: If the file is missing, or is not a whole safetensors file.
    """
    return _read(path)[0]


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a file, from its header; a header cannot promise more than the file holds.

    Raises:
        WeightsError: If the file is missing, or is not a whole safetensors file.
    """
    with _opened(path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors atomically; equal tensors give equal bytes."""
    _write(path, tensors, _WEIGHTS_METADATA)


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the JSON object that `write_state` wrote.

    Raises:
        WeightsError: If the file is missing, damaged, or holds no such object.
    """
    tensors, metadata = _read(path)
    if "state" not in metadata:
        raise WeightsError(f"'{path}' holds weights, but no state of a training run")
    try:
        state = json.loads(metadata["state"])
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"The state in '{path}' is not JSON: {error}") from None
    if not isinstance(state, dict):
        raise WeightsError(f"The state in '{path}' is a {type(state).__name__}, not an object")
    return tensors, state


def write_state(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON object beside them atomically."""
    _write(path, tensors, {"state": json.dumps(state)})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise WeightsError(f"No weights at '{path}'")
    try:
        with safe_open(path, framework="pt") as file:
            if (count := len(file.keys())) > _MOST_TENSORS:
                raise WeightsError(f"'{path}' has {count:,} tensors; a checkpoint has at most {_MOST_TENSORS:,}. Use another file")
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"'{path}' is not a whole safetensors file ({error}). {_what_it_may_be(path)}") from None


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the `model.safetensors` that `write_safetensors` writes of these tensors."""
    return hashlib.sha256(_serialize(tensors, _WEIGHTS_METADATA)).hexdigest()


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    write_atomically(path, _serialize(tensors, metadata))


def _serialize(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    own: dict[str, Tensor] = {}
    storages = set()
    for key, tensor in tensors.items():
        tensor = tensor.detach().contiguous().cpu()
        storage = tensor.untyped_storage().data_ptr()
        own[key] = tensor.clone() if storage in storages else tensor  # safetensors refuses what shares memory
        storages.add(storage)
    # one entry of metadata only: safetensors writes several in random order
    return save(own, metadata)


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


def is_web_page(head: bytes) -> bool:
    """Whether a file that starts like this is HTML, as servers send in place of a file."""
    return head.lstrip()[:1] == b"<"


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that starts like this only points to the file, in Git LFS."""
    return head.lstrip().startswith(b"version https://git-lfs")


def _what_it_may_be(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(64)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return "It looks like a pickle, as torch.save writes; those are not opened, since they can run code"
    if is_web_page(head):
        return "It looks like a web page: the download went wrong"
    if is_lfs_pointer(head):
        return "It is a Git LFS pointer: fetch the file itself with 'git lfs pull'"
    return "Copy or download it again"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file whole or not at all, also if the process is killed. Its folder is made if it does not exist.

    What `is_stream` is written to instead.
    """
    if is_stream(path):
        with naming(path):
            _write_to_stream(path, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # unlike a temporary file's, these permissions are what the umask leaves of them
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside the one to make, which takes its name if nothing goes wrong, and is deleted else.

    Raises:
        OSError: If the folder holds something, or cannot be written.
    """
    hidden = folder.absolute().parent / f".{folder.absolute().name}.{secrets.token_hex(4)}"
    try:
        hidden.mkdir(parents=True)
        with naming(folder):
            yield hidden
        if folder.exists():
            folder.rmdir()
        os.replace(hidden, folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket, or leads to an open file as /dev/stdout does.

    Such a path is there to be written to: a file that takes its place would break whatever else uses it.
    """
    path = _followed(path)
    return path.exists() and (_is_in_dev_or_proc(path) or not (path.is_file() or path.is_dir()))


def _write_to_stream(path: Path, data: bytes) -> None:
    path = _followed(path)
    if path.parent == Path(f"/proc/{os.getpid()}/fd") and path.name.isdigit():
        sys.stdout.flush()
        # opened anew, a file would be written from its start, over what is there
        with os.fdopen(os.dup(int(path.name)), "wb") as file:
            file.write(data)
    else:
        with path.open("ab") as file:
            file.write(data)


def _followed(path: Path) -> Path:
    """The target of a path's links, but for those of /dev and /proc, which lead to what is open."""
    for _ in range(40):  # as many as Linux follows
        path = Path(os.path.realpath(path.parent), path.name)
        if str(path.parent).startswith("/proc/") or not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return path


def _is_in_dev_or_proc(path: Path) -> bool:
    return str(path.parent) == "/dev" or str(path.parent).startswith("/proc/")


def refuse_stream(path: Path) -> None:
    """Raise a ValueError for a device or pipe, where a file is written that cannot go there."""
    if is_stream(path):
        raise ValueError(f"'{path}' is a device or a pipe, and takes no such file; give the name of a file")


def cache_folder() -> Path:
    """`PSPNET_ZOO_CACHE`, or "pspnet_zoo" beside torch.hub's folder."""
    chosen = os.environ.get("PSPNET_ZOO_CACHE")
    return Path(chosen).expanduser() if chosen else Path(torch.hub.get_dir()).parent / "pspnet_zoo"
