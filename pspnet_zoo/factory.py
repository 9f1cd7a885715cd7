"""From a name to a network."""

import logging
from difflib import get_close_matches
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

from .meta import Preprocess
from .model_source import Architecture, ExportedFile, Folder, parse_name, parse_weights
from .models.pspnet import PSPNet
from .storage import hub
from .storage.download import Progress
from .storage.errors import WeightsError
from .storage.files import read_config
from .upstream.cache import cached
from .zoo.entries import Checkpoint
from .zoo.registry import BUNDLED, find_checkpoint

DEFAULT_CLASSES = 19  # Cityscapes, the paper's main dataset

_log = logging.getLogger(__name__)


def create(
    name: str,
    *,
    pretrained: bool | str = False,
    encoder_weights: str | PathLike[str] | bool | None = None,
    classes: int | None = None,
    in_channels: int = 3,
    **options: Any,
) -> PSPNet:
    """Build a PSPNet by name.

    Args:
        name: An architecture (`pspnet_r101`, `pspnet_lite0`, `pspnet_` + a timm name), or a checkpoint (`pspnet_lite0.camvid`, or
            the id that its upstream gave it), which loads its weights. Those of other projects are fetched on first use, from the
            Hub where the zoo has published them there, else from their project: checked, converted and kept in the cache, see
            `pspnet_zoo.upstream.cache`.
        pretrained: True loads the architecture's default weights, a tag those. The network is then in evaluation mode, with
            `.labels`, `.preprocess` and `.provenance`; otherwise it is in training mode.
        encoder_weights: Without `pretrained`: weights of the encoder only, see `build_encoder`. None touches no network.
        classes: Channels of the output. None for those of the weights, or 19 without weights. Another number than that of the
            weights re-makes the classifier and keeps everything else.
        in_channels: Channels of the input; with weights for another number, timm adapts the first convolution.
        options: More arguments of `PSPNet`.

    Raises:
        ValueError: If the name or tag is unknown, or the arguments contradict each other.
        TypeError: If an option is no argument of PSPNet.
        WeightsError: If the weights cannot be loaded.
    """
    if unknown := options.keys() - signature(PSPNet).parameters.keys():
        raise TypeError(f"create() has no argument {', '.join(map(_with_hint, sorted(unknown)))}")
    named = find_checkpoint(name, pretrained if isinstance(pretrained, str) else None) if pretrained else parse_name(name)
    if isinstance(named, Architecture):
        return PSPNet(
            named.encoder,
            encoder_weights,
            classes=DEFAULT_CLASSES if classes is None else classes,
            in_channels=in_channels,
            **{**named.options, **options},
        )
    entry = named
    if encoder_weights:
        raise ValueError(f"'{entry.name}' has weights for the encoder too; leave out encoder_weights={encoder_weights!r}")
    if in_channels != 3:
        options["in_channels"] = in_channels
    return PSPNet.from_pretrained(fetch(entry), classes=classes, **options)


_MEANT = {"num_classes": "classes", "in_chans": "in_channels", "drop_rate": "psp_dropout"}  # timm's words


def _with_hint(name: str) -> str:
    known = get_close_matches(name, signature(PSPNet).parameters, n=1)
    meant = _MEANT.get(name) or next(iter(known), None)
    return f"'{name}' (did you mean '{meant}'?)" if meant else f"'{name}'"


_OF_FILES = signature(PSPNet.from_pretrained).parameters.keys() - signature(create).parameters.keys() - {"source"}


def load(source: PSPNet | str | PathLike[str], **options: Any) -> PSPNet:
    """Load a network from a folder, from the Hub ("org/repo", "org/repo@revision") or by its name in the zoo.

    Args:
        source: See `pspnet_zoo.model_source`; exported files are not for this. A network is returned as it is.
        options: Arguments of `from_pretrained`, such as `classes`; a network takes none.

    Raises:
        ValueError: If the name is unknown or without weights, or it is an exported file.
        TypeError: If an option is not for this source, or no argument of PSPNet.
        FileNotFoundError: If it is a path that does not exist.
        WeightsError: If the weights cannot be loaded.
    """
    if isinstance(source, PSPNet):
        if options:
            raise TypeError(f"load() returns a network as it is; leave out {', '.join(options)}, which names and folders take")
        return source
    found = parse_weights(source)
    if isinstance(found, ExportedFile):
        raise ValueError(f"'{source}' is an exported file, and no PyTorch network: pspnet_zoo.Predictor runs it")
    if isinstance(found, Checkpoint):
        if others := [name for name in options if name in _OF_FILES]:
            raise TypeError(f"'{source}' is a name of the zoo; leave out {', '.join(others)}, which folders and the Hub take")
        return create(found.name, **options)
    return PSPNet.from_pretrained(source, **options)


def known_preprocess(source: PSPNet | str | PathLike[str]) -> Preprocess | None:
    """The preprocessing of a model, if it is known without loading the model."""
    found = source if isinstance(source, PSPNet) else parse_weights(source)
    if isinstance(found, Checkpoint) and found.upstream is not None:
        return found.upstream.preprocess
    if isinstance(found, Checkpoint | Folder):
        folder = BUNDLED / (found.folder or "") if isinstance(found, Checkpoint) else found.path
        try:
            return Preprocess.from_dict(read_config(folder)["preprocess"])
        except (WeightsError, ValueError, TypeError):  # told when it is loaded
            return None
    return found.preprocess if isinstance(found, PSPNet) else None


def fetch(entry: Checkpoint, *, progress: Progress | None = None) -> Path:
    """The folder of an entry's weights: the bundled one, else the entry's copy on the Hub, else what its upstream has, converted.

    Args:
        entry: Of the zoo.
        progress: Told of bytes as they come from an upstream; None shows a bar on a terminal.

    Raises:
        WeightsError: If they cannot be had.
        OSError: If the cache cannot be written.
    """
    if entry.folder is not None:
        return BUNDLED / entry.folder
    if entry.hub is not None:
        _log.info("'%s' is on the Hub: %s at %s, %.0f MB", entry.name, entry.hub.repo, entry.hub.revision, entry.hub.size / 1e6)
        return hub.download_checkpoint(f"{hub.namespace()}/{entry.hub.repo}", revision=entry.hub.revision, sha256=entry.hub.sha256)
    _log.info("'%s' is taken from its upstream", entry.name)
    return cached(entry, progress=progress)
