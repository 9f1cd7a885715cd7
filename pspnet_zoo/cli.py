"""The command `pspnet-zoo`."""

import json
import sys
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .cli_publish import publish
from .data.images import SUFFIXES
from .engine.recipes import CAMVID
from .factory import create
from .predict import DEFAULT_MODEL, Prediction, Predictor, load
from .registry import CHECKPOINTS, find, is_checkpoint, list_models
from .weights.files import WeightsError, save_pretrained, write_atomically

app = typer.Typer(
    name="pspnet-zoo",
    help="PSPNet on any timm backbone: segment pictures, train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(publish)
_out = Console()
_err = Console(stderr=True)

ModelArgument = Annotated[str, typer.Argument(metavar="NAME_OR_DIR", help="A model of the zoo, or the folder of a checkpoint.")]
DatasetOption = Annotated[str, typer.Option(help="Layout of the data: camvid.")]
DataOption = Annotated[Path, typer.Option(help="Folder of the data set.", show_default=False)]


def main() -> None:
    """Run the command; what the user can put right is one line on stderr and exit code 2."""
    try:
        app()
    except (WeightsError, ValueError, OSError, FloatingPointError) as error:
        _complain(error)
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
    with _progress() as bar:
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
                _complain(error)
                failures += 1
            bar.advance(task)
    if shares:
        _out.print(_shares_table(shares))
        _out.print(f"Wrote {2 * len(shares)} pictures to {output}", highlight=False, soft_wrap=True)
    if failures:
        raise typer.Exit(2)


@app.command()
def train(
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run: checkpoint, and in the end model/.")],
    dataset: DatasetOption = "camvid",
    model: Annotated[str, typer.Option(help="Architecture to build.")] = "pspnet_lite0",
    encoder_weights: Annotated[str | None, typer.Option(help="'imagenet', a timm tag, or a .safetensors file.")] = None,
    init: Annotated[Path | None, typer.Option(help="Folder of a checkpoint to start from instead of --model.")] = None,
    output_stride: Annotated[int, typer.Option(help="Of the encoder: 8, 16 or 32 pixels.")] = 8,
    iterations: Annotated[int, typer.Option(help="Steps of the optimizer.")] = CAMVID.iterations,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = CAMVID.batch_size,
    crop: Annotated[str, typer.Option(help="HEIGHTxWIDTH of a training crop, in pixels.")] = "x".join(map(str, CAMVID.crop)),
    lr: Annotated[float, typer.Option(help="Learning rate of the encoder at the start; ten times that for the rest.")] = CAMVID.lr,
    class_weight_power: Annotated[
        float, typer.Option(help="A class counts as its share of the pixels to the power of minus this.")
    ] = CAMVID.class_weight_power,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = CAMVID.seed,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = CAMVID.checkpoint_every,
    workers: Annotated[int, typer.Option(help="Processes that read pictures.")] = 1,
    device: Annotated[str, typer.Option(help="Where to train, such as cpu or cuda.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUTPUT exactly where it stopped.")] = False,
) -> None:
    """Train a network, with the paper's auxiliary head, on the train split.

    Ctrl-C and SIGTERM stop it with a checkpoint, from which --resume goes on.
    """
    from .engine.train import CHECKPOINT, train
    from .weights.files import from_pretrained

    pictures = _open_dataset(dataset, data, "train")
    recipe = replace(
        CAMVID,
        iterations=iterations,
        batch_size=batch_size,
        crop=_parse_crop(crop),
        lr=lr,
        class_weight_power=class_weight_power,
        seed=seed,
        checkpoint_every=checkpoint_every,
    )
    if (output / CHECKPOINT).exists() and not resume:
        raise ValueError(f"'{output}' already holds a run; continue it with --resume, or choose another folder with -o")
    if init:
        network = from_pretrained(init, encoder_output_stride=output_stride)
    else:
        options = {"classes": len(pictures.labels), "aux_head": True, "encoder_output_stride": output_stride}
        network = create(model, encoder_weights=encoder_weights, **options)
    network.labels = pictures.labels
    network.to(device)
    with _progress() as bar:
        task = bar.add_task("training", total=iterations)

        def show(step: int, loss: float, rate: float) -> None:
            text = f"loss {loss:.3f}  lr {rate:.5f}"
            bar.update(task, completed=step, description=text)
            if step % checkpoint_every == 0 and not _err.is_terminal:  # a log file gets lines instead of a bar
                _err.print(f"step {step}/{iterations}  {text}", highlight=False)

        steps = train(network, pictures, recipe, output, resume=resume, workers=workers, progress=show)
    if steps < iterations:
        _err.print(f"Stopped after step {steps} of {iterations} with a checkpoint; go on with --resume", highlight=False)
        raise typer.Exit(143)  # as a process that SIGTERM ended
    folder = save_pretrained(network, output / "model")
    _out.print(f"Wrote {folder}", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    model: ModelArgument,
    data: DataOption,
    dataset: DatasetOption = "camvid",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Measure a network on a data set: whole pictures, one scale, no flip."""
    from .engine.evaluate import PROTOCOL, evaluate

    network, pictures = load(model), _open_dataset(dataset, data, split)
    with _progress() as bar:
        task = bar.add_task("evaluating", total=len(pictures))
        result = evaluate(network, pictures, lambda done: bar.update(task, completed=done))
    table = Table("class", "IoU", title=f"{model} on {dataset} {split}, {result.images} pictures, {PROTOCOL}")
    for name, iou in result.iou.items():
        table.add_row(name, "-" if iou is None else f"{iou:.4f}")
    table.add_section()
    for name, value in (("mIoU", result.miou), ("pixel accuracy", result.pixel_accuracy), ("loss", result.loss)):
        table.add_row(name, f"{value:.4f}")
    _out.print(table)
    if json_file:
        numbers = {"model": model, "dataset": dataset, "split": split, **result.as_json()}
        write_atomically(json_file, (json.dumps(numbers, indent=2) + "\n").encode())


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
        from .table import markdown_page

        sys.stdout.write(markdown_page())
        return
    if architectures:
        _out.print("\n".join(list_models(pattern)), highlight=False)
        return
    table = Table("checkpoint", "parameters", "licence", "numbers")
    names = set(list_models(pattern, pretrained=True))
    for row in CHECKPOINTS:
        if row.name in names:
            table.add_row(row.name, f"{row.parameters / 1e6:.1f} M", row.license, "\n".join(map(str, row.metrics)))
    _out.print(table)


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
    from .weights.convert import convert

    folder = save_pretrained(convert(file, like=like), output)
    _out.print(f"Wrote {folder}", highlight=False, soft_wrap=True)


@app.command()
def info(model: ModelArgument) -> None:
    """Describe a model: parameters, encoder, labels, and numbers with their protocol and origin.

    No checkpoint of the zoo is downloaded for it.
    """
    row = find(model) if is_checkpoint(model) and not Path(model).is_dir() else None
    if row is not None and row.source is not None:
        from .weights.convert import build

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
    _out.print(table)


def _complain(error: Exception) -> None:
    _err.print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=_err)


def _open_dataset(name: str, folder: Path, split: str):
    from .data.camvid import CamVid

    if name != "camvid":
        raise ValueError(f"dataset is '{name}'; it can be camvid")
    return CamVid(folder, split)


def _parse_crop(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"--crop is '{text}'; it is HEIGHTxWIDTH in pixels, such as 240x320")
    return int(height), int(width)


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
            _complain(error)
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


if __name__ == "__main__":
    main()
