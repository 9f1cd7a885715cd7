"""The command `pspnet-zoo`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..factory import create, load
from ..storage.errors import WeightsError
from ..zoo.registry import CHECKPOINTS, find, is_checkpoint, list_models
from .bulk import bulk
from .data import app as data_app
from .evaluate import evaluate
from .predict import predict
from .publish import publish
from .terminal import ModelArgument, complain, out, say
from .train import train

app = typer.Typer(
    name="pspnet-zoo",
    help="PSPNet on any timm backbone: segment pictures, train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command; what the user can put right is one line on stderr and exit code 2."""
    try:
        app()
    except (WeightsError, ValueError, OSError, FloatingPointError) as error:
        complain(error)
        sys.exit(2)


app.command()(predict)
app.command()(bulk)
app.command()(train)
app.command()(evaluate)
app.command()(publish)
app.add_typer(data_app, name="data")


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="With shell wildcards, such as '*r101*'.")] = "*",
    architectures: Annotated[
        bool, typer.Option("--architectures", help="Every network that can be built, weights or not.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The page of the documents, with sources.")] = False,
) -> None:
    """List the checkpoints of the zoo, with their numbers, and who measured or claims them."""
    if markdown:
        from ..zoo.table import markdown_page

        sys.stdout.write(markdown_page())
        return
    if architectures:
        say("\n".join(list_models(pattern)))
        return
    table = Table("checkpoint", "parameters", "licence", "numbers")
    names = set(list_models(pattern, pretrained=True))
    for row in CHECKPOINTS:
        if row.name in names:
            table.add_row(row.name, f"{row.parameters / 1e6:.1f} M", row.license, "\n".join(map(str, row.metrics)))
    out.print(table)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A checkpoint as its project publishes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for model.safetensors and config.json.")],
    like: Annotated[
        str | None,
        typer.Option(help="Which checkpoint it is: a name of the zoo or the project's own. Without it, what it could be."),
    ] = None,
) -> None:
    """Convert a checkpoint of another project; nothing in the file is run."""
    from ..upstream.convert import convert

    folder = convert(file, like=like).save_pretrained(output)
    say(f"Wrote {folder}")


@app.command()
def info(model: ModelArgument) -> None:
    """Describe a model: parameters, encoder, labels, and numbers with their protocol and origin.

    No checkpoint of the zoo is downloaded for it.
    """
    row = find(model) if is_checkpoint(model) and not Path(model).is_dir() else None
    if row is not None and row.source is not None:
        from ..upstream.convert import build

        network = build(row)
        network.labels, network.preprocess = row.labels, row.preprocess or network.preprocess
    else:
        network = create(model) if row is None and not Path(model).is_dir() and "/" not in model else load(model)
    table = Table(title=model, show_header=False)
    table.add_row("parameters", f"{sum(p.numel() for p in network.parameters()):,}")
    encoder = network.encoder
    table.add_row(
        "encoder", f"{network.config['encoder_name']}, stride {encoder.output_stride}, channels {encoder.out_channels[1:]}"
    )
    table.add_row("mechanism", f"{encoder.mechanism}, from the strides {list(encoder.native_strides)}")
    if encoder.image_size:
        table.add_row("largest picture", "x".join(map(str, encoder.image_size)))
    for key in ("psp_out_channels", "align_corners", "dilation", "shortcut_pool", "aux_head", "in_channels"):
        table.add_row(key, str(network.config[key]))
    table.add_row("preprocess", str(network.preprocess))
    table.add_row("labels", ", ".join(network.labels.names) if network.labels else "none")
    if row is None:
        tags = [other.tag for other in CHECKPOINTS if other.architecture == model]
        table.add_row("weights", ", ".join(tags) or "none in the zoo")
    else:
        table.add_row("numbers", "\n".join(map(str, row.metrics)))
        if row.source is not None:
            table.add_row("license", row.license)
            table.add_row("source", "\n".join(row.source.urls) or f"by hand, from {row.source.page}")
    for key, value in (network.provenance or {}).items():
        table.add_row(key, value if isinstance(value, str) else json.dumps(value, indent=1))
    out.print(table)
