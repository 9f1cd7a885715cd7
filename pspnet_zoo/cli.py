"""The command `pspnet-zoo`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """PSPNet on any timm backbone: predict, train, evaluate."""


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="Folder of the data set.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run: checkpoint, and at the end the model.")],
    model: Annotated[str, typer.Option(help="Architecture to start from.")] = "pspnet_lite0",
    init: Annotated[str | None, typer.Option(help="Checkpoint (name or folder) to start from instead.")] = None,
    encoder_weights: Annotated[str | None, typer.Option(help="'imagenet', a timm tag or a .safetensors file.")] = None,
    iterations: int = 1400,
    batch_size: int = 8,
    crop: Annotated[str, typer.Option(help="HEIGHTxWIDTH of a training crop, in pixels.")] = "240x320",
    lr: Annotated[float, typer.Option(help="Learning rate of the encoder; that of the heads is ten times it.")] = 0.01,
    output_stride: Annotated[int, typer.Option(help="8, 16 or 32 pixels.")] = 8,
    seed: int = 0,
    checkpoint_every: int = 100,
    workers: int = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUTPUT where it stopped.")] = False,
) -> None:
    """Train on CamVid. Stops with a checkpoint on Ctrl-C or SIGTERM."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from .data.camvid import CamVid
    from .engine.recipes import Recipe
    from .engine.train import train as run
    from .factory import create
    from .weights.files import from_pretrained, save_pretrained

    height, width = map(int, crop.split("x"))
    recipe = Recipe(
        iterations=iterations, batch_size=batch_size, crop=(height, width), lr=lr, seed=seed, checkpoint_every=checkpoint_every
    )
    dataset = CamVid(data, "train")
    if init:
        net = from_pretrained(init, encoder_output_stride=output_stride)
    else:
        net = create(
            model, encoder_weights=encoder_weights, classes=len(dataset.labels), aux_head=True, encoder_output_stride=output_stride
        )
    net.labels = dataset.labels
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=iterations)

        def show(step: int, loss: float, rate: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.3f}  lr {rate:.5f}")
            if step % 10 == 0:
                with open(output / "log.txt", "a") as f:
                    import time

                    f.write(f"{time.time():.0f} {step} {loss:.4f} {rate:.5f}\n")

        steps = run(net, dataset, recipe, output, resume=resume, workers=workers, progress=show)
    if steps < iterations:
        typer.echo(f"Stopped at iteration {steps}; continue with --resume")
        raise typer.Exit(143)
    save_pretrained(net, output / "model")
    typer.echo(f"Wrote {output / 'model'}")


if __name__ == "__main__":
    app()
