"""A checkpoint on disk: `model.safetensors` and a complete `config.json` in one folder.

Loading needs no registry row, no backbone download and no pickle, and is strict.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..data.labels import Labels
from ..models import Preprocess, PSPNet
from ..models.heads import initialize

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MODEL_CLASS = "pspnet_zoo.PSPNet"  # a dotted name, so that smp.from_pretrained does not take the folder for its own PSPNet

_WEIGHTS_METADATA = {"format": "pt"}

_log = logging.getLogger(__name__)


class WeightsError(Exception):
    """Weights that cannot be loaded or saved. The message names the file, the reason and the next step."""


def save_pretrained(model: PSPNet, folder: str | PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
    """Write `model.safetensors` and `config.json`; equal weights give equal bytes.

    Args:
        model: Its weights, config, preprocess, labels and provenance are written.
        folder: Made if it does not exist. Each file is replaced whole or not at all.
        dtype: Of the floating-point tensors in the file; None keeps theirs.

    Returns:
        The folder.

    Raises:
        WeightsError: If the config cannot be written as JSON, as with a callable activation.
        OSError: If the folder cannot be written.
    """
    config = {
        "_model_class": MODEL_CLASS,
        "model": model.config,
        "preprocess": asdict(model.preprocess),
        "labels": asdict(model.labels) if model.labels else None,
        "provenance": model.provenance,
    }
    try:
        text = json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise WeightsError(
            f"This model cannot be saved: its config is not JSON ({error}). Use smp's names for activations"
        ) from None
    tensors = model.state_dict()
    if dtype is not None:
        tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    folder = Path(folder)
    write_safetensors(folder / WEIGHTS_FILE, tensors)
    write_atomically(folder / CONFIG_FILE, text.encode())
    return folder


def from_pretrained(folder: str | PathLike[str], *, strict: bool = True, classes: int | None = None, **options: Any) -> PSPNet:
    """The network that `save_pretrained` wrote, in evaluation mode.

    Args:
        folder: Holds `model.safetensors` and `config.json`.
        strict: False leaves tensors that the file lacks untrained and drops those that the network lacks, and logs which.
        classes: Another number of classes re-makes the classifier, untrained, and keeps everything else.
        options: Arguments of PSPNet that replace those of `config.json` and change no tensor, such as `psp_dropout`;
            `aux_head` may be switched.

    Raises:
        WeightsError: If a file is missing, damaged or foreign, or its tensors are not exactly the network's.
        TypeError: If an option is no argument of PSPNet.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    own = config["model"]
    if unknown := options.keys() - signature(PSPNet).parameters.keys():
        raise TypeError(f"PSPNet has no argument {', '.join(map(repr, sorted(unknown)))}")
    try:
        with torch.device("meta" if strict else "cpu"):
            model = PSPNet(encoder_weights=None, **{**own, **options})
        model.preprocess = _preprocess(config["preprocess"])
        model.labels = _labels(config["labels"])
    except (TypeError, ValueError, KeyError) as error:
        if options:
            raise
        raise WeightsError(f"'{folder / CONFIG_FILE}' describes a network that cannot be built: {error}") from error
    model.provenance = config["provenance"]
    tensors = read_safetensors(folder / WEIGHTS_FILE)
    if strict:
        load_tensors(
            model,
            tensors,
            f"'{folder / WEIGHTS_FILE}' does not fit the network of its {CONFIG_FILE}",
            aux_head_switched=model.config["aux_head"] != own["aux_head"],
        )
    else:
        left = model.load_state_dict(tensors, strict=False)
        _log.warning("Untrained, because '%s' lacks them: %s", folder / WEIGHTS_FILE, ", ".join(left.missing_keys) or "none")
        _log.warning("Dropped, because the network lacks them: %s", ", ".join(left.unexpected_keys) or "none")
    if classes is not None and classes != own["classes"]:
        remade = model.reset_classifier(classes)
        _log.warning("The classifier has %d classes instead of %d and is untrained: %s", classes, own["classes"], ", ".join(remade))
    return model.eval()


def _preprocess(values: dict[str, Any]) -> Preprocess:
    return Preprocess(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def _labels(values: dict[str, Any] | None) -> Labels | None:
    return Labels(tuple(values["names"]), tuple(map(tuple, values["colors"]))) if values else None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsError(f"No '{path}'. A checkpoint is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise WeightsError(f"'{path}' is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("_model_class") != MODEL_CLASS:
        raise WeightsError(f"'{path}' is not a checkpoint of pspnet_zoo: its _model_class is not '{MODEL_CLASS}'")
    missing = [key for key in ("model", "preprocess", "labels", "provenance") if key not in config]
    if missing:
        raise WeightsError(f"'{path}' lacks {', '.join(missing)}")
    return config


def load_tensors(model: PSPNet, tensors: Mapping[str, Tensor], misfit: str, *, aux_head_switched: bool = False) -> None:
    """Give a network on the meta device its tensors, strictly; only a switched auxiliary head may be missing or left over.

    Raises:
        WeightsError: If names or shapes differ: `misfit`, and the first of them.
    """
    own = model.state_dict()
    missing, unexpected = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    if aux_head_switched:
        aside = {k for k in missing | unexpected if k.startswith("auxiliary_head.")}
        missing, unexpected = missing - aside, unexpected - aside
    wrong = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    problems = [
        f"{what}: {', '.join(sorted(keys)[:5])}{' ...' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("not in the network", unexpected), ("of another shape", wrong))
        if keys
    ]
    if problems:
        raise WeightsError(f"{misfit}; {'; '.join(problems)}")
    tensors = {k: tensors[k].to(own[k].dtype) for k in own.keys() & tensors.keys()}
    model.load_state_dict(tensors, strict=False, assign=True)
    if aux_head_switched and model.auxiliary_head is not None:
        initialize(model.auxiliary_head.to_empty(device="cpu"))
    module: Any
    for module in model.modules():
        left = [n for n, b in module.named_buffers(recurse=False) if b.is_meta]
        for buffer in left:
            setattr(module, buffer, torch.empty_like(getattr(module, buffer), device="cpu"))
        if left:
            module.init_non_persistent_buffers()  # timm's name for it


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped, not copied.

    Raises:
        WeightsError: If the file is missing, or is not a whole safetensors file.
    """
    return _read(path)[0]


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
    return tensors, json.loads(metadata["state"])


def write_state(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON object beside them atomically."""
    _write(path, tensors, {"state": json.dumps(state)})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise WeightsError(f"No weights at '{path}'")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"'{path}' is not a whole safetensors file ({error}). {_what_it_may_be(path)}") from None


def weights_digest(model: PSPNet) -> str:
    """sha256 of the `model.safetensors` that `save_pretrained` writes of the network as it is."""
    return hashlib.sha256(_serialize(model.state_dict(), _WEIGHTS_METADATA)).hexdigest()


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    write_atomically(path, _serialize(tensors, metadata))


def _serialize(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    # one entry of metadata only: safetensors writes several in random order
    return save({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, metadata)


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
    """Replace the file whole or not at all, also if the process is killed. Its folder is made if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
