"""The command `pspnet-zoo info`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from ..inference.exported import format_of
from ..meta import Labels
from ..zoo.registry import CHECKPOINTS, find, is_checkpoint, parse_architecture
from ..zoo.rows import Checkpoint
from .terminal import ModelArgument, check_name, out

if TYPE_CHECKING:
    from ..models.pspnet import PSPNet


def info(model: ModelArgument) -> None:
    """Describe a model: parameters, encoder, labels, and numbers with their protocol and origin.

    No checkpoint of the zoo is downloaded for it.
    """
    if format_of(model) is not None:
        out.print(_exported_table(model))
        return
    is_stored = Path(model).is_dir() or "/" in model
    row = find(model) if is_checkpoint(model) and not is_stored else None
    if row is None and not is_stored:
        parse_architecture(model)  # a wrong name is answered before anything large is imported
    network = _network(model, row, is_stored)
    table = Table(title=escape(model), show_header=False)

    def add(key: str, text: str) -> None:
        table.add_row(escape(key), escape(text))

    add("parameters", f"{sum(p.numel() for p in network.parameters()):,}")
    encoder = network.encoder
    add("encoder", f"{network.config['encoder_name']}, stride {encoder.output_stride}, channels {encoder.out_channels[1:]}")
    add("mechanism", f"{encoder.mechanism}, from the strides {list(encoder.native_strides)}")
    if encoder.image_size:
        add("largest picture", "x".join(map(str, encoder.image_size)))
    for key in ("psp_out_channels", "align_corners", "dilation", "shortcut_pool", "aux_head", "in_channels"):
        add(key, str(network.config[key]))
    add("preprocess", str(network.preprocess))
    add("labels", ", ".join(network.labels.names) if network.labels else "none")
    if row is None:
        tags = [other.tag for other in CHECKPOINTS if other.architecture == model]
        add("weights", ", ".join(tags) or "none in the zoo")
    else:
        add("numbers", "\n".join(map(str, row.metrics)))
        if row.upstream is not None:
            add("license", row.license)
            add("source", "\n".join(row.upstream.urls) or f"by hand, from {row.upstream.page}")
    for key, value in (network.provenance or {}).items():
        add(key, value if isinstance(value, str) else json.dumps(value, indent=1))
    out.print(table)


def _network(model: str, row: Checkpoint | None, is_stored: bool) -> "PSPNet":
    from ..factory import create, load

    if row is not None and row.upstream is not None:
        from ..upstream.convert import build

        network = build(row)
        network.labels, network.preprocess = row.labels, row.upstream.preprocess
        return network
    return load(model) if row is not None or is_stored else create(model)


def _exported_table(model: str) -> Table:
    """What an exported network says of itself."""
    check_name(model)
    from ..inference.engines import open_engine

    engine: Any = open_engine(model)
    table = Table(title=model, show_header=False)
    for key, value in vars(engine.spec).items():
        if isinstance(value, dict):
            value = "\n".join(f"{k}: {v if isinstance(v, str) else json.dumps(v)}" for k, v in value.items())
        table.add_row(key, ", ".join(value.names) if isinstance(value, Labels) else str(value))
    return table
