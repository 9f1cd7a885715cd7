"""The zoo as data: what names mean, and a frozen row for each checkpoint."""

import difflib
import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm

from .models.encoder import FAMILIES

PREFIX = "pspnet_"


@dataclass(frozen=True)
class Metric:
    """A number with everything that makes it comparable."""

    name: str
    """What was measured: "miou", "pixel_accuracy" or "loss"."""
    value: float
    """As a fraction of 1, except the loss."""
    dataset: str
    split: str
    protocol: str
    """How: input size, scales, flip, windows."""
    origin: Literal["measured", "claimed"]
    """"measured" by this project with its own command, or "claimed" by the checkpoint's source."""

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f} {self.origin} ({self.dataset} {self.split}, {self.protocol})"


@dataclass(frozen=True)
class Checkpoint:
    """Published weights."""

    architecture: str
    tag: str
    """Who trained it, on what, and what sets it apart."""
    folder: str
    """Below `pspnet_zoo/weights/bundled`: these weights ship with the package."""
    sha256: str
    """Of `model.safetensors`."""
    parameters: int
    license: str
    metrics: tuple[Metric, ...]

    @property
    def name(self) -> str:
        """`architecture.tag`."""
        return f"{self.architecture}.{self.tag}"


BUNDLED = Path(__file__).parent / "weights" / "bundled"

CHECKPOINTS: tuple[Checkpoint, ...] = ()
"""Every published checkpoint. The first of an architecture is its default."""

_SHORT_ENCODERS = {"lite0": "tf_efficientnet_lite0"}

# A light network is narrow after the pyramid too. Its 'same' padding shifts cells by up to 31 pixels, depending on the size of the
# picture; align_corners=None takes the shift into account.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"lite0": {"psp_out_channels": 192, "align_corners": None}}


def parse_architecture(name: str) -> tuple[str, dict[str, Any]]:
    """The timm encoder and the PSPNet options that an architecture's name stands for.

    `pspnet_r101d` is timm's `resnet101d`, `pspnet_lite0` its `tf_efficientnet_lite0`; anything else after `pspnet_` is a timm name.

    Raises:
        ValueError: If it is none; the message has the closest names.
    """
    short = name.removeprefix(PREFIX)
    encoder = _SHORT_ENCODERS.get(short, re.sub(r"^r(\d+[a-z]?)$", r"resnet\1", short))
    if not name.startswith(PREFIX) or not timm.is_model(encoder):
        close = difflib.get_close_matches(name, [*list_models(), *list_models(pretrained=True)], n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"Unknown model '{name}'.{hint} See pspnet_zoo.list_models()")
    return encoder, dict(_OPTIONS.get(short, {}))


def find(name: str, tag: str | None = None) -> Checkpoint:
    """The row of `architecture.tag`, or of an architecture's tag, or of its default.

    Raises:
        ValueError: If there is none; the message lists those that there are.
    """
    architecture, _, dotted_tag = name.partition(".")
    tag = tag or dotted_tag or None
    rows = [row for row in CHECKPOINTS if row.architecture == architecture]
    for row in rows:
        if tag in (None, row.tag):
            return row
    parse_architecture(architecture)  # a wrong name gets the closest ones
    if rows:
        raise ValueError(f"'{architecture}' has no weights '{tag}'. It has: {', '.join(row.tag for row in rows)}")
    known = ", ".join(list_models(pretrained=True))
    raise ValueError(f"'{architecture}' has no published weights yet. There are weights for: {known}")


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names that `create` takes, in natural order.

    Args:
        pattern: With shell wildcards, such as "*r101*".
        pretrained: Only checkpoints, as `architecture.tag`, instead of architectures.
    """
    if pretrained:
        names = [row.name for row in CHECKPOINTS]
    else:
        short = {encoder: name for name, encoder in _SHORT_ENCODERS.items()}
        encoders = timm.list_models(module=FAMILIES)
        names = [PREFIX + short.get(e, re.sub(r"^resnet(\d+[a-z]?)$", r"r\1", e)) for e in encoders]
    return sorted(fnmatch.filter(names, pattern), key=_natural)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
