"""The command `pspnet-zoo train`."""

import inspect
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import torch
import typer

from ..data.open import open_dataset
from ..factory import create, load
from ..training.recipes import RECIPES, Recipe
from .terminal import DataOption, err, progress_bar, say


def _with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Declare the keywords of the command: an option for each field of the recipe, None where the recipe's own number stands."""
    signature = inspect.signature(command)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, hint in get_type_hints(Recipe, include_extras=True).items():
        kind, text = get_args(hint)
        annotation = Annotated[kind | None, typer.Option(help=text, rich_help_panel="Numbers of the recipe")]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
        command.__annotations__[name] = annotation
    command.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return command


@_with_recipe_options
def train(
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; in the end it holds model/.")],
    recipe: Annotated[str, typer.Option(help=f"Numbers to start from: {', '.join(RECIPES)}.")] = "finetune",
    dataset: Annotated[str | None, typer.Option(help="Layout of the data; None for the recipe's.")] = None,
    model: Annotated[str | None, typer.Option(help="Architecture to build; None for the recipe's.")] = None,
    encoder_weights: Annotated[str | None, typer.Option(help="'imagenet', a timm tag, or a .safetensors file.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Checkpoint to start from instead of --model: a name of the zoo, a folder, or org/repo.")
    ] = None,
    output_stride: Annotated[int, typer.Option(help="Of the encoder: 8, 16 or 32 pixels.")] = 8,
    workers: Annotated[int, typer.Option(help="Processes that read pictures.")] = 1,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU though there is a GPU.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Through torch.compile: a slow start, then faster steps.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUTPUT exactly where it stopped.")] = False,
    **numbers: Any,
) -> None:
    """Train a network, with the paper's auxiliary head, on the train split; needs the extra 'train' of the package.

    Ctrl-C and SIGTERM stop it with a checkpoint, from which --resume goes on. Several GPUs: torchrun --nproc-per-node N -m
    pspnet_zoo.cli train ... Every number of the recipe can be given as an option.
    """
    try:
        from ..training.train import CHECKPOINT, train
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Training needs {error.name}; install the extra: pip install 'pspnet-zoo[train]', or '.[train]' in a clone"
        ) from None
    if recipe not in RECIPES:
        raise ValueError(f"recipe is '{recipe}'; it can be {', '.join(RECIPES)}")
    named = RECIPES[recipe]
    resolved = replace(named.recipe, **{name: value for name, value in numbers.items() if value is not None})
    layout = dataset or named.dataset
    pictures = open_dataset(layout, data, "train")
    validation = open_dataset(layout, data, "val") if resolved.evaluate_every else None
    if (output / CHECKPOINT).exists() and not resume:
        raise ValueError(f"'{output}' already holds a run; continue it with --resume, or choose another folder with -o")
    torch.manual_seed(resolved.seed)  # the first weights of what is not pretrained
    options: dict[str, Any] = {"classes": len(pictures.labels), "encoder_output_stride": output_stride}
    if init:
        network = load(init, **options)
    else:
        options |= {"aux_head": True, **named.network}
        network = create(model or named.model, encoder_weights=encoder_weights, **options)
    network.labels = pictures.labels
    network.provenance = {
        "data": f"{layout}, split train, {len(pictures)} pictures",
        "start": init or (f"encoder weights {encoder_weights}" if encoder_weights else "untrained"),
        "start_provenance": network.provenance,
        "recipe": asdict(resolved),
    }
    is_main = int(os.environ.get("RANK", 0)) == 0  # torchrun's number of this process
    bar = progress_bar()
    bar.disable = not is_main
    with bar:
        task = bar.add_task("training", total=resolved.iterations)

        def show(step: int, loss: float, rate: float) -> None:
            text = f"loss {loss:.3f}  lr {rate:.5f}"
            bar.update(task, completed=step, description=text)
            if step % resolved.checkpoint_every == 0 and not err.is_terminal:  # a log file gets lines instead of a bar
                say(f"step {step}/{resolved.iterations}  {text}", err)

        steps = train(
            network,
            pictures,
            resolved,
            output,
            validation=validation,
            resume=resume,
            workers=workers,
            cpu=cpu,
            compile=compile,
            progress=show,
        )
    if steps < resolved.iterations:
        if is_main:
            say(f"Stopped after step {steps} of {resolved.iterations} with a checkpoint; go on with --resume", err)
        raise typer.Exit(143)  # as a process that SIGTERM ended
    if is_main:
        say(f"Wrote {network.save_pretrained(output / 'model')}")
