"""The command `pspnet-zoo train`."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import torch
import typer

from ..data.dataset import SegmentationDataset
from ..data.folder import distinct_colors
from ..data.open import open_dataset
from ..data.unlabelled import Joined, Unlabelled
from ..factory import create, load
from ..inference.protocols import PROTOCOLS
from ..meta import Labels
from ..models import PSPNet
from ..training.distill import TeacherScores, network_teacher, read_mapping
from ..training.recipes import RECIPES, Recipe
from .terminal import err, progress_bar, say

TAUGHT = "From a teacher"


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
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; in the end it holds model/.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data set; not needed with a teacher and --unlabelled.")] = None,
    recipe: Annotated[str, typer.Option(help=f"Numbers to start from: {', '.join(RECIPES)}.")] = "finetune",
    dataset: Annotated[str | None, typer.Option(help="Layout of the data; None for the recipe's.")] = None,
    model: Annotated[str | None, typer.Option(help="Architecture to build; None for the recipe's.")] = None,
    encoder_weights: Annotated[str | None, typer.Option(help="'imagenet', a timm tag, or a .safetensors file.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Checkpoint to start from instead of --model: a name of the zoo, a folder, or org/repo.")
    ] = None,
    output_stride: Annotated[int, typer.Option(help="Of the encoder: 8, 16 or 32 pixels.")] = 8,
    teacher: Annotated[
        list[str], typer.Option(help="Checkpoint whose probabilities are a target; several are averaged.", rich_help_panel=TAUGHT)
    ] = [],  # noqa: B006
    teacher_protocol: Annotated[
        str, typer.Option(help=f"How it sees a picture: {', '.join(PROTOCOLS)}.", rich_help_panel=TAUGHT)
    ] = "whole",
    teacher_mapping: Annotated[
        Path | None,
        typer.Option(help='JSON file for other classes: {"class": ["teacher\'s class", ...], ...}.', rich_help_panel=TAUGHT),
    ] = None,
    teacher_cache: Annotated[
        Path | None, typer.Option(help="Folder of its probabilities; without it, OUTPUT/teacher.", rich_help_panel=TAUGHT)
    ] = None,
    teacher_stride: Annotated[
        int, typer.Option(help="They are kept for so many by so many pixels: 4 takes a sixteenth of 1.", rich_help_panel=TAUGHT)
    ] = 1,
    unlabelled: Annotated[
        list[Path], typer.Option(help="Folder of pictures without masks, for the teacher.", rich_help_panel=TAUGHT)
    ] = [],  # noqa: B006
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
    if (unlabelled and not teacher) or not (data or unlabelled):
        raise ValueError("Nothing says what is in the pictures; give --data, or --teacher and --unlabelled")
    teachers = [load(name) for name in teacher]
    masked = open_dataset(layout, data, "train") if data else None
    validation = open_dataset(layout, data, "val") if data and resolved.evaluate_every else None
    mapping = read_mapping(teacher_mapping) if teacher_mapping else None
    labels = masked.labels if masked else _labels(teachers[0], mapping)
    parts = [*([masked] if masked else []), *(Unlabelled(folder, labels) for folder in unlabelled)]
    pictures = Joined(parts) if unlabelled else parts[0]
    if (output / CHECKPOINT).exists() and not resume:
        raise ValueError(f"'{output}' already holds a run; continue it with --resume, or choose another folder with -o")
    torch.manual_seed(resolved.seed)  # the first weights of what is not pretrained
    options: dict[str, Any] = {"classes": len(labels), "encoder_output_stride": output_stride}
    if init:
        network = load(init, **options)
    else:
        options |= {"aux_head": True, **named.network}
        network = create(model or named.model, encoder_weights=encoder_weights, **options)
    network.labels = labels
    counts = [f"{layout}, split train, {len(masked)} pictures"] if masked else []
    counts += [f"{len(pictures) - (len(masked) if masked else 0)} pictures without masks"] if unlabelled else []
    network.provenance = {
        "data": "; ".join(counts),
        "start": init or (f"encoder weights {encoder_weights}" if encoder_weights else "untrained"),
        "start_provenance": network.provenance,
        "recipe": asdict(resolved),
    }
    scores = None
    if teachers:
        network.provenance["teachers"] = {
            "protocol": teacher_protocol,
            "mapping": mapping,
            "networks": [{"name": name, "provenance": net.provenance} for name, net in zip(teacher, teachers, strict=True)],
        }
        scores = _teacher_scores(
            teachers, teacher_protocol, mapping, pictures, teacher_cache or output / "teacher", teacher_stride, cpu
        )
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
            teacher=scores,
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


def _labels(teacher: PSPNet, mapping: Mapping[str, Sequence[str]] | None) -> Labels:
    """The student's classes, where there are no masks: the mapping's, or else the teacher's."""
    if mapping is not None:
        return Labels(tuple(mapping), distinct_colors(len(mapping)))
    if teacher.labels is None:
        raise ValueError("The teacher has no labels, so its classes have no names; say with --teacher-mapping what they form")
    return teacher.labels


def _teacher_scores(
    teachers: Sequence[PSPNet],
    protocol: str,
    mapping: Mapping[str, Sequence[str]] | None,
    pictures: SegmentationDataset,
    folder: Path,
    stride: int,
    cpu: bool,
) -> TeacherScores:
    """The teachers' scores of the pictures: computed by every process for its share, with a bar, unless they are there."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"--teacher-protocol is '{protocol}'; it can be {', '.join(PROTOCOLS)}")
    rank, processes, local_rank = (int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() and not cpu else torch.device("cpu")
    made = [network_teacher(net.to(device).eval(), PROTOCOLS[protocol], pictures.labels, mapping) for net in teachers]
    scores = TeacherScores(folder, made, pictures, stride=stride)
    bar = progress_bar()
    bar.disable = rank > 0
    if rank == 0:
        size = sum(map(scores.size, range(len(pictures)))) / 1e9
        say(f"The teacher's probabilities of {len(pictures)} pictures take {size:.1f} GB in {scores.folder}", err)
    with bar:
        task = bar.add_task("teacher", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        scores.prepare(process=rank, processes=processes, progress=show)
    return scores
