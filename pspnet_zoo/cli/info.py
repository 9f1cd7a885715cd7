"""The command `pspnet-zoo info`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..meta import Labels, Preprocess
from ..model_source import Architecture, ExportedFile, ModelSource, parse
from ..zoo.registry import CHECKPOINTS, Checkpoint
from .terminal import ModelArgument, say, say_facts

if TYPE_CHECKING:
    from ..models.pspnet import PSPNet

Facts = Iterator[tuple[str, str | Sequence[str]]]


def info(model: ModelArgument) -> None:
    """Describe a model: its network, labels, numbers and origin.

    No checkpoint of the zoo is downloaded for it.
    """
    found = parse(model)
    facts = list(_exported(model) if isinstance(found, ExportedFile) else _described(model, found))
    say(model)
    say_facts(facts)


def _described(model: str, found: ModelSource) -> Facts:
    network = _network(model, found)
    encoder = network.encoder
    yield "parameters", f"{sum(p.numel() for p in network.parameters()):,}"
    yield "encoder", f"{network.config['encoder_name']}, stride {encoder.output_stride}, channels {encoder.out_channels[1:]}"
    yield "mechanism", f"{encoder.mechanism}, from the strides {list(encoder.native_strides)}"
    if encoder.image_size:
        yield "largest image", "x".join(map(str, encoder.image_size))
    for key in ("psp_out_channels", "align_corners", "dilation", "shortcut_pool", "aux_head", "in_channels"):
        yield key, str(network.config[key])
    yield "preprocess", _as_fact(network.preprocess)
    yield "labels", ", ".join(network.labels.names) if network.labels else "none"
    if network.config["multilabel"]:
        yield "multilabel", "a pixel may be of several classes, or of none"
    if network.threshold is not None:
        yield "threshold", str(network.threshold)
    if isinstance(found, Architecture):
        tags = [other.tag for other in CHECKPOINTS if other.architecture == model]
        yield "weights", ", ".join(tags) or "none in the zoo"
    if isinstance(found, Checkpoint):
        yield "numbers", "\n".join(map(str, found.metrics))
        if found.upstream is not None:
            yield "license", found.license
            yield "source", found.upstream.urls or f"by hand, from {found.upstream.page}"
    yield from _provenance(network.provenance)


def _exported(model: str) -> Facts:
    """The facts that an exported file states."""
    from ..runtimes.open import open_runtime

    runtime: Any = open_runtime(model)
    for key, value in vars(runtime.spec).items():
        if key != "provenance":
            yield key, ", ".join(value.names) if isinstance(value, Labels) else _as_fact(value)
    yield from _provenance(runtime.spec.provenance)


def _provenance(provenance: Mapping[str, Any] | None) -> Facts:
    for key, value in (provenance or {}).items():
        if value is not None:
            yield key, _as_fact(value)


def _as_fact(value: Any) -> str | Sequence[str]:
    """Lists of text, as commands, a line each; settings in words; what is nested deeper as JSON.

    Numbers of a tuple, as mean and std of each band, have five digits, as `data stats` prints them.
    """
    value = asdict(value) if isinstance(value, Preprocess) else value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return value
    if isinstance(value, dict) and not any(isinstance(v, dict) for v in value.values()):
        return "\n".join(f"{k}: {_short(v)}" for k, v in value.items())
    return json.dumps(value, indent=1).splitlines() if isinstance(value, (list, dict)) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{v:.5g}" if isinstance(v, float) else str(v) for v in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _network(model: str, found: ModelSource) -> "PSPNet":
    from ..factory import create, load

    if isinstance(found, Checkpoint) and found.upstream is not None:
        from ..upstream.convert import build_network

        network = build_network(found)
        network.labels, network.preprocess = found.labels, found.upstream.preprocess
        return network
    return create(model) if isinstance(found, Architecture) else load(model)
