"""Foreign checkpoints as PSPNets: which file, which family, which entry, and then its converter."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..meta import Labels
from ..models.pretrained import load_tensors
from ..models.pspnet import PSPNet
from ..storage.files import WeightsError, file_digest, matches
from ..zoo.entries import Checkpoint, Upstream
from ..zoo.registry import CHECKPOINTS, find_checkpoint, parse_architecture
from .families.csail import CSAIL
from .families.mmseg import MMSEG, check_config
from .families.paddleseg import PADDLESEG
from .families.ptsemseg import PTSEMSEG
from .families.pytorchcv import PYTORCHCV
from .families.renaming import Converter, complete
from .families.segmentron import SEGMENTRON
from .families.semseg import SEMSEG
from .foreign import read_checkpoint

CONVERTERS: Mapping[str, Converter] = {
    "mmseg": MMSEG,
    "semseg": SEMSEG,
    "pytorchcv": PYTORCHCV,
    "paddleseg": PADDLESEG,
    "ptsemseg": PTSEMSEG,
    "segmentron": SEGMENTRON,
    "csail": CSAIL,
}
"""Converters by family."""

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")
_CSAIL_PARTS = ("encoder", "decoder")

_log = logging.getLogger(__name__)


def convert(path: str | Path, *, like: str | None = None) -> PSPNet:
    """A published checkpoint's file as a network in evaluation mode, with `.labels`, `.preprocess` and `.provenance`.

    Nothing in the file is run. A published file's name and digest are checked, and mmseg's config inside it. Another file than the
    published one, as of a network that somebody trained, gets none of the entry's claims: its provenance says what it is like, and
    mmseg's own names of its classes are its labels. Where no digest is published, the name of the file decides.

    Args:
        path: The file as the upstream publishes it: torch.save's, or PaddlePaddle's .pdparams. Of CSAIL's two files either one, the
            other beside it, or their folder.
        like: The checkpoint that it is, or was trained like: a name of the zoo or the upstream's id. It decides what the weights do
            not tell: dilation, align_corners, preprocessing, labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `like` is unknown.
        WeightsError: If the file is damaged, foreign or hostile, does not fit `like`, or `like` is not given (the message then
            lists what the file could be).
    """
    files = _files(Path(path))
    if like is None:
        raise WeightsError(_candidates(files))
    entry = find_checkpoint(like)
    if entry.upstream is None:
        raise WeightsError(
            f"'{entry.name}' is this project's own; nothing is like it. Load it with pspnet_zoo.create('{entry.name}')"
        )
    if not entry.upstream.hash and _is_published(files, entry.upstream):
        _log.warning(
            "'%s' is taken for the published file of '%s' by its name, since no digest is published. If it is a network of your "
            "own, rename it and convert it again, so that it gets none of the published claims",
            files[0],
            entry.name,
        )
    return convert_files(files, entry, entry.upstream)


def convert_files(files: Sequence[Path], entry: Checkpoint, upstream: Upstream) -> PSPNet:
    """`convert` for files that are already found, in the order of `upstream.files`."""
    if upstream.same_weights_as:
        raise WeightsError(f"Files of '{entry.name}' are not supported; '{upstream.same_weights_as}' is the same in PyTorch")
    digests = {file.name: _check_name(file) for file in files}
    is_published = _is_published(files, upstream)
    if not is_published:
        what = f"digest is {upstream.hash}" if upstream.hash else f"name is '{upstream.files[0]}'"
        _log.warning("'%s' is not the file that was published as '%s', whose %s. It gets no claims", files[0], entry.name, what)
    state, meta = _read(files)
    family = _family(state, files[0])
    if family != upstream.family:
        raise WeightsError(
            f"'{files[0]}' is a checkpoint of {family}, but '{entry.name}' is one of {upstream.family}. "
            "Leave `like` out to see what the file could be"
        )
    if family == "mmseg" and isinstance(meta.get("config"), str):
        check_config(meta["config"], entry.architecture, upstream.network, upstream.preprocess)
    model = build_network(entry)
    load_tensors(model, _to_ours(state, family), f"'{files[0]}' does not fit '{entry.name}'")
    for key, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise WeightsError(f"'{files[0]}' is damaged: '{key}' has NaN or Inf. Download it again from its source")
    model.preprocess = upstream.preprocess
    model.labels = entry.labels if is_published else _own_labels(meta, entry, upstream)
    model.provenance = {**claims(entry, upstream), "sha256": digests} if is_published else {"like": entry.name, "sha256": digests}
    return model.eval()


def claims(entry: Checkpoint, upstream: Upstream) -> dict[str, Any]:
    """The provenance of an entry's published weights, as JSON has it, without the digests of their files."""
    return {
        "name": entry.name,
        "upstream": upstream.id,
        "page": upstream.page,
        "urls": list(upstream.urls),
        "license": entry.license,
        "metrics": [asdict(metric) for metric in entry.metrics],
    }


def build_network(entry: Checkpoint) -> PSPNet:
    """The network of an entry of another project, on the meta device."""
    encoder, options = parse_architecture(entry.architecture)
    network = asdict(entry.upstream.network) if entry.upstream else {}
    with torch.device("meta"):
        return PSPNet(encoder, None, **{**options, **network})


def _is_published(files: Sequence[Path], upstream: Upstream) -> bool:
    """Whether these are the published files: by their digest, or by their names where none is published."""
    if upstream.hash:
        return matches(files[0], upstream.hash)
    return tuple(file.name for file in files) == upstream.files


def _own_labels(meta: Mapping[str, Any], entry: Checkpoint, upstream: Upstream) -> Labels | None:
    """The names of the classes that mmseg wrote into a file, `CLASSES` or since 1.0 `dataset_meta`; else the entry's labels."""
    dataset = meta.get("dataset_meta")
    names = (dataset.get("classes") if isinstance(dataset, Mapping) else None) or meta.get("CLASSES")
    if not isinstance(names, tuple | list) or (entry.labels and tuple(names) == entry.labels.names):
        return entry.labels
    if len(names) != upstream.network.classes:
        _log.warning("The file names %d classes and has %d, so they are not its labels", len(names), upstream.network.classes)
        return entry.labels
    try:
        return Labels(tuple(names))
    except ValueError as error:
        _log.warning("The names of classes in the file are not its labels: %s", error)
        return entry.labels


def _to_ours(state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    return complete(CONVERTERS[family].to_ours(state))


def _family(state: Mapping[str, Tensor], file: Path) -> str:
    family = next((name for name, converter in CONVERTERS.items() if converter.signature_key in state), None)
    if family is None:
        raise WeightsError(
            f"'{file}' is no PSPNet of a known project ({', '.join(CONVERTERS)}). It starts with: {', '.join(list(state)[:3])}"
        )
    return family


def _files(path: Path) -> list[Path]:
    """The file, or CSAIL's two files, encoder first."""
    if path.is_dir():
        found = [sorted(path.glob(f"{part}*.pth")) for part in _CSAIL_PARTS]
        if any(len(files) != 1 for files in found):
            raise WeightsError(f"'{path}' is a folder without exactly one encoder*.pth and one decoder*.pth. Give the file itself")
        return [files[0] for files in found]
    if not path.is_file():
        raise FileNotFoundError(f"No file at '{path}'")
    for part in _CSAIL_PARTS:
        if path.name.startswith(f"{part}_epoch"):
            files = [path.with_name(path.name.replace(part, other, 1)) for other in _CSAIL_PARTS]
            missing = [file for file in files if not file.is_file()]
            if missing:
                raise FileNotFoundError(f"'{path.name}' is half of a checkpoint; the other half is not at '{missing[0]}'")
            return files
    return [path]


def _read(files: Sequence[Path]) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors of all files, those of two under their parts' names; and mmseg's `meta`."""
    if len(files) == 1:
        return read_checkpoint(files[0])
    return {
        f"{part}.{key}": tensor
        for part, file in zip(_CSAIL_PARTS, files, strict=True)
        for key, tensor in read_checkpoint(file)[0].items()
    }, {}


def _check_name(file: Path) -> str:
    """The file's sha256, after a comparison of the file with the digest that is published for its name.

    Eight digits at the end of another name are a digest, as mmseg itself writes it, or a date: a difference is logged.
    """
    sources = [entry.upstream for entry in CHECKPOINTS if entry.upstream]
    published = next((source.hash for source in sources if source.hash and file.name in source.files), None)
    if published and not matches(file, published):
        algorithm, _, digits = published.partition(":")
        raise WeightsError(
            f"'{file}' is damaged: its {algorithm} does not start with {digits[:8]}, as that of the published file of this name. "
            "Fetch it again, or rename it if it is your own"
        )
    match = _HASH_IN_NAME.search(file.name)
    if match and not published and not any(matches(file, f"{algorithm}:{match[1]}") for algorithm in ("sha256", "sha1")):
        _log.warning("'%s' does not have the digest %s. If that is no date, the file is damaged: fetch it again", file, match[1])
    return file_digest(file, "sha256")


def _candidates(files: Sequence[Path]) -> str:
    """List the checkpoints that the files could be, as the message of an error."""
    for file in files:
        _check_name(file)
    state, _ = _read(files)
    family = _family(state, files[0])
    shapes = {key: tensor.shape for key, tensor in _to_ours(state, family).items()}
    classes = next(iter(shapes.get("segmentation_head.0.weight", ())), None)
    fits: dict[Any, bool] = {}
    names = []
    for entry in CHECKPOINTS:
        if entry.upstream is None or (entry.upstream.family, entry.upstream.network.classes) != (family, classes):
            continue
        network = entry.upstream.network
        # what decides the shapes; a network takes a while to build
        key = (entry.architecture, network.classes, network.psp_out_channels, network.psp_bin_channels, network.aux_channels)
        if key not in fits:
            fits[key] = {k: v.shape for k, v in build_network(entry).state_dict().items()} == shapes
        if fits[key]:
            names.append(f"\n  {entry.name}  ({entry.upstream.id})")
    if not names:
        return f"'{files[0]}' is a checkpoint of {family}, but its tensors fit no published one"
    return (
        f"'{files[0]}' is a checkpoint of {family}. Weights do not tell their dilation, align_corners and labels: "
        f"say with `like` which one it is, or was trained like:{''.join(names)}"
    )
