"""The command `pspnet-zoo`."""

import json
import sys
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..data.images import SUFFIXES
from ..factory import create, load
from ..inference.predictor import DEFAULT_MODEL, Prediction, Predictor
from ..storage.errors import WeightsError
from ..zoo.registry import CHECKPOINTS, find, is_checkpoint, list_models
from .data import app as data_app
from .evaluate import evaluate
from .publish import publish
from .terminal import ModelArgument, complain, out, progress_bar, say
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


@app.command()
def predict(
    pictures: Annotated[
        list[Path],
        # what cannot be read is reported by the loop, which goes on with the others
        typer.Argument(metavar="FILE_OR_FOLDER...", help="Pictures, or folders of pictures.", readable=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("predictions"),
    model: Annotated[str, typer.Option(help="A model of the zoo, or the folder of a checkpoint.")] = DEFAULT_MODEL,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Weight of the colours in the overlay.")] = 0.5,
) -> None:
    """Segment pictures: an overlay with a legend and a mask of class ids for each, and a table of what is in them.

    A picture that cannot be read is reported and the others are still done; the exit code is then 2.
    """
    files, failures = _find_pictures(pictures)
    predictor = Predictor(model)
    output.mkdir(parents=True, exist_ok=True)
    inputs = {file.resolve() for file in files}
    shares: dict[str, dict[str, float]] = {}
    with progress_bar() as bar:
        task = bar.add_task("segmenting", total=len(files))
        for file, stem in zip(files, _unique_stems(files), strict=True):
            try:
                targets = output / f"{stem}_overlay.png", output / f"{stem}_mask.png"
                if taken := [t for t in targets if t.resolve() in inputs]:
                    raise ValueError(f"'{taken[0]}' is one of the pictures to segment; choose another folder with -o")
                prediction = predictor(file)
                _save(prediction, *targets, alpha)
                shares[stem] = prediction.shares
            except (ValueError, OSError) as error:
                complain(error)
                failures += 1
            bar.advance(task)
    if shares:
        out.print(_shares_table(shares))
        say(f"Wrote {2 * len(shares)} pictures to {output}")
    if failures:
        raise typer.Exit(2)


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


def _find_pictures(paths: list[Path]) -> tuple[list[Path], int]:
    """The files, those of the folders included, and the number of paths that gave none, which are reported."""
    files, failures = [], 0
    for path in paths:
        try:
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
            if not found:
                raise ValueError(f"No pictures in '{path}'")
            files += found
        except (ValueError, OSError) as error:
            complain(error)
            failures += 1
    return files, failures


def _unique_stems(files: list[Path]) -> list[str]:
    """Names for the results; those that would fall together get numbers."""
    stems: dict[str, None] = {}  # in order
    for file in files:
        numbered = (f"{file.stem}_{n}" for n in count(2))
        stems[next(stem for stem in chain([file.stem], numbered) if stem not in stems)] = None
    return list(stems)


def _save(prediction: Prediction, overlay: Path, mask: Path, alpha: float) -> None:
    prediction.overlay(alpha, legend=True).save(overlay)
    prediction.save(mask)


def _shares_table(shares: dict[str, dict[str, float]]) -> Table:
    """Classes by picture; many pictures are averaged into one column."""
    if len(shares) > 4:
        pictures = list(shares.values())
        shares = {f"mean of {len(pictures)} pictures": {n: sum(p[n] for p in pictures) / len(pictures) for n in pictures[0]}}
    columns = list(shares.values())
    table = Table("class", *shares, title="share of the picture")
    for name in sorted(columns[0], key=lambda n: -sum(c[n] for c in columns)):
        if any(c[name] for c in columns):
            table.add_row(name, *(f"{c[name]:.1%}" for c in columns))
    return table
