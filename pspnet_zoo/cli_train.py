"""The command `pspnet-zoo train`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .data.open import open_dataset
from .engine.recipes import CAMVID
from .factory import create
from .terminal import DataOption, DatasetOption, err, progress_bar, say
from .weights.files import save_pretrained


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

    pictures = open_dataset(dataset, data, "train")
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
    with progress_bar() as bar:
        task = bar.add_task("training", total=iterations)

        def show(step: int, loss: float, rate: float) -> None:
            text = f"loss {loss:.3f}  lr {rate:.5f}"
            bar.update(task, completed=step, description=text)
            if step % checkpoint_every == 0 and not err.is_terminal:  # a log file gets lines instead of a bar
                say(f"step {step}/{iterations}  {text}", err)

        steps = train(network, pictures, recipe, output, resume=resume, workers=workers, progress=show)
    if steps < iterations:
        say(f"Stopped after step {steps} of {iterations} with a checkpoint; go on with --resume", err)
        raise typer.Exit(143)  # as a process that SIGTERM ended
    folder = save_pretrained(network, output / "model")
    say(f"Wrote {folder}")


def _parse_crop(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"--crop is '{text}'; it is HEIGHTxWIDTH in pixels, such as 240x320")
    return int(height), int(width)
