"""Names of architectures and checkpoints, and the entries behind them."""

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoints import CHECKPOINTS as CHECKPOINTS
from .checkpoints import DEFAULT_TAGS as DEFAULT_TAGS
from .entries import Checkpoint as Checkpoint
from .timm_names import is_timm_model, timm_models

PREFIX = "pspnet_"

DEFAULT_MODEL = "pspnet_lite0.camvid"
"""Ships with the package."""


BUNDLED = Path(__file__).parent / "bundled"

_SHORT_ENCODERS = {
    "lite0": "tf_efficientnet_lite0",
    # the stems of timm's resnet50c and resnet50s, which timm has from depth 50 up
    "r18c": "resnet18",
    "r18s": "resnet18",
}

# A light network is narrow after the pyramid too. Its 'same' padding shifts positions by up to 31 pixels, depending on the image's
# size; align_corners=None takes the shift into account.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "lite0": {"psp_out_channels": 192, "align_corners": None},
    "r18c": {"encoder_stem_width": 32},
    "r18s": {"encoder_stem_width": 64},
}


def parse_architecture(name: str) -> tuple[str, dict[str, Any]]:
    """The timm encoder and the PSPNet options that an architecture's name stands for.

    `pspnet_r101d` is timm's `resnet101d`, `pspnet_lite0` its `tf_efficientnet_lite0`, `pspnet_r18c` and `pspnet_r18s` its
    `resnet18` with the stem of `resnet50c` and `resnet50s`; anything else after `pspnet_` is a timm name.

    Raises:
        ValueError: If it is none; the message has the closest names.
    """
    short = name.removeprefix(PREFIX)
    encoder = _SHORT_ENCODERS.get(short, re.sub(r"^r(\d+[a-z]?)$", r"resnet\1", short))
    if not name.startswith(PREFIX) or not is_timm_model(encoder):
        ids = [entry.upstream.id for entry in CHECKPOINTS if entry.upstream]
        close = _close(name, [*list_models(), *list_models(pretrained=True), *ids])
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"Unknown model '{name}'.{hint} See pspnet_zoo.list_models(), or run: pspnet-zoo list")
    return encoder, dict(_OPTIONS.get(short, {}))


def find_checkpoint(name: str, tag: str | None = None) -> Checkpoint:
    """The entry of `architecture.tag`, of an architecture's tag, of its default, or of the upstream's own id.

    Raises:
        ValueError: If there is none; the message lists those that there are.
    """
    for entry in CHECKPOINTS:
        if tag is None and entry.upstream is not None and entry.upstream.id == name:
            return entry
    architecture, _, dotted_tag = name.partition(".")
    if tag and dotted_tag and tag != dotted_tag:
        raise ValueError(f"'{name}' names the weights '{dotted_tag}', and '{tag}' are asked for too; give one of them")
    tag = tag or dotted_tag or DEFAULT_TAGS.get(architecture)
    entries = [entry for entry in CHECKPOINTS if entry.architecture == architecture]
    for entry in entries:
        if tag in (None, entry.tag):
            return entry
    encoder, options = parse_architecture(architecture)  # a wrong name gets the closest ones
    close = _close(str(tag), [entry.tag for entry in entries])[:1]
    if not close and _has_timm_weights(f"{encoder}.{tag}"):
        raise ValueError(
            f"'{tag}' is timm's tag for weights of the encoder alone: create('{architecture}', encoder_weights='{tag}')"
        )
    if entries:
        tags = [entry.tag for entry in entries]
        hint = "".join(f" Did you mean '{architecture}.{other}'?" for other in close)
        raise ValueError(f"'{architecture}' has no weights '{tag}'.{hint} It has: {', '.join(tags)}")
    same = [entry for entry in CHECKPOINTS if parse_architecture(entry.architecture) == (encoder, options)]
    if same:
        tags = ", ".join(entry.tag for entry in same)
        raise ValueError(f"'{architecture}' has its published weights under the name '{same[0].architecture}'. It has: {tags}")
    known = ", ".join(sorted({entry.architecture for entry in CHECKPOINTS}, key=_natural))
    raise ValueError(f"'{architecture}' has no published weights yet. There are weights for: {known}")


def _has_timm_weights(name: str) -> bool:
    import timm  # takes seconds, and is asked only of what is close to no weights of ours

    return timm.is_model_pretrained(name)


def is_checkpoint(name: str) -> bool:
    """Whether a name asks for weights: `architecture.tag` or an upstream's id, not an architecture."""
    return "." in name or any(entry.upstream is not None and entry.upstream.id == name for entry in CHECKPOINTS)


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names that `create` takes, in natural order.

    Args:
        pattern: With shell wildcards, such as "*r101*".
        pretrained: Only checkpoints, as `architecture.tag`, instead of architectures.
    """
    if pretrained:
        names = [entry.name for entry in CHECKPOINTS]
    else:
        stems = [PREFIX + short for short, options in _OPTIONS.items() if "encoder_stem_width" in options]
        short = {encoder: name for name, encoder in _SHORT_ENCODERS.items() if PREFIX + name not in stems}
        names = stems + [PREFIX + short.get(e, re.sub(r"^resnet(\d+[a-z]?)$", r"r\1", e)) for e in timm_models()]
    return sorted(fnmatch.filter(names, pattern), key=_natural)


def _close(name: str, names: Sequence[str]) -> list[str]:
    """The names that someone may have meant, closest first, whatever the case of the letters."""
    by_lower = {other.lower(): other for other in names}
    return [by_lower[other] for other in difflib.get_close_matches(name.lower(), by_lower, n=3)]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
