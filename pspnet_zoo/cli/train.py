"""The command `pspnet-zoo train`."""

import inspect
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from ..data.layouts.names import LAYOUTS
from ..extras import missing_extra
from ..inference.protocols import PROTOCOLS
from ..meta import Labels
from ..training.recipes import RECIPES, Recipe
from ..zoo.registry import parse_architecture
from .terminal import check_name, err, progress_bar, say, torchrun_device, torchrun_process

if TYPE_CHECKING:
    from ..data.dataset import SegmentationDataset
    from ..models.pspnet import PSPNet
    from ..runtimes.open import Runtime
    from ..training.distill import TeacherScores

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
    data: Annotated[Path | None, typer.Option(help="Folder of the dataset; not needed with a teacher and --unlabelled.")] = None,
    recipe: Annotated[str, typer.Option(help=f"Numbers to start from: {', '.join(RECIPES)}.")] = "finetune",
    dataset: Annotated[
        str | None, typer.Option(show_default="the recipe's", help=f"Layout of the data: {', '.join(LAYOUTS)}.")
    ] = None,
    model: Annotated[str | None, typer.Option(show_default="the recipe's", help="Architecture to build.")] = None,
    encoder_weights: Annotated[str | None, typer.Option(help="'imagenet', a timm tag, or a .safetensors file.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Checkpoint to start from instead of --model: a name of the zoo, a folder, or org/repo.")
    ] = None,
    output_stride: Annotated[int, typer.Option(help="Of the encoder: 8, 16 or 32 pixels.")] = 8,
    teacher: Annotated[
        list[str],
        typer.Option(
            help="Checkpoint or exported network whose probabilities are a target; repeat it for several, which are averaged.",
            rich_help_panel=TAUGHT,
        ),
    ] = [],  # noqa: B006
    teacher_protocol: Annotated[
        str, typer.Option(help=f"How it sees an image: {', '.join(PROTOCOLS)}.", rich_help_panel=TAUGHT)
    ] = "whole",
    teacher_mapping: Annotated[
        Path | None,
        typer.Option(help='JSON file for other classes: {"class": ["teacher\'s class", ...], ...}.', rich_help_panel=TAUGHT),
    ] = None,
    teacher_cache: Annotated[
        Path | None, typer.Option(show_default="OUTPUT/teacher", help="Folder of its probabilities.", rich_help_panel=TAUGHT)
    ] = None,
    teacher_stride: Annotated[
        int, typer.Option(help="They are kept for so many by so many pixels: 4 takes a sixteenth of 1.", rich_help_panel=TAUGHT)
    ] = 1,
    unlabelled: Annotated[
        list[Path],
        typer.Option(help="Folder of images without masks, for the teacher; repeat it for more.", rich_help_panel=TAUGHT),
    ] = [],  # noqa: B006
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 1,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU though there is a GPU.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Through torch.compile: a slow start, then faster steps.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUTPUT exactly where it stopped.")] = False,
    **numbers: Any,
) -> None:
    """Train a network, on masks or on what other networks see.

    It has the paper's auxiliary head and is trained on the train split; needs the extra 'train' of the package.

    Ctrl-C and SIGTERM stop it with a checkpoint, from which --resume goes on.

    On several GPUs: torchrun --nproc-per-node N -m pspnet_zoo.cli train ...
    """
    _check_names([init, *teacher], model, teacher_protocol, recipe)
    if (unlabelled and not teacher) or not (data or unlabelled):
        raise ValueError("Nothing says what is in the images; give --data, or --teacher and --unlabelled")
    checkpoint, run = _training()
    from ..data.open import open_dataset
    from ..training.distill import read_mapping

    named = RECIPES[recipe]
    resolved = replace(named.recipe, **{name: value for name, value in numbers.items() if value is not None})
    layout = dataset or named.dataset
    masked = open_dataset(layout, data, "train") if data else None
    validation = _validation(layout, data) if data and resolved.evaluate_every else None
    mapping = read_mapping(teacher_mapping) if teacher_mapping else None
    teachers = _teachers(teacher, cpu)
    images = _images(masked, unlabelled, masked.labels if masked else _labels(teachers[0], mapping))
    if (output / checkpoint).exists() and not resume:
        raise ValueError(f"'{output}' already holds a run; continue it with --resume, or choose another folder with -o")
    options = {"classes": len(images.labels), "encoder_output_stride": output_stride}
    network = _network(init, model or named.model, encoder_weights, resolved.seed, options, named.network)
    network.labels = images.labels
    network.provenance = {
        "data": _said(layout, masked, len(images)),
        "start": init or (f"encoder weights {encoder_weights}" if encoder_weights else "untrained"),
        "start_provenance": network.provenance,
        "recipe": asdict(resolved),
    }
    scores = None
    if teachers:
        networks = [{"name": name, "provenance": net.provenance} for name, net in zip(teacher, teachers, strict=True)]
        network.provenance["teachers"] = {"protocol": teacher_protocol, "mapping": mapping, "networks": networks}
        folder = teacher_cache or output / "teacher"
        scores = _teacher_scores(teachers, teacher_protocol, mapping, images, folder, teacher_stride)
    is_main = torchrun_process()[0] == 0
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: received.append(number))
    with _progress(resolved, is_main) as show:
        steps = run(
            network,
            images,
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
        raise typer.Exit(128 + (received or [signal.SIGTERM])[0])  # as of a process that the signal ended
    if is_main:
        say(f"Wrote {network.save_pretrained(output / 'model')}")


def _training() -> tuple[str, Callable[..., int]]:
    """The name of a run's checkpoint, and what runs it."""
    try:
        from ..training.train import CHECKPOINT, train
    except ModuleNotFoundError as error:
        raise missing_extra("Training", "train", error) from None
    return CHECKPOINT, train


def _check_names(checkpoints: Sequence[str | None], model: str | None, protocol: str, recipe: str) -> None:
    """Complain before anything large is imported."""
    for name in filter(None, checkpoints):
        check_name(name)
    if model:
        parse_architecture(model)
    if protocol not in PROTOCOLS:
        raise ValueError(f"--teacher-protocol is '{protocol}'; it can be {', '.join(PROTOCOLS)}")
    if recipe not in RECIPES:
        raise ValueError(f"recipe is '{recipe}'; it can be {', '.join(RECIPES)}")


def _said(layout: str, masked: "SegmentationDataset | None", total: int) -> str:
    """What the provenance says of the images."""
    with_masks = len(masked) if masked else 0
    counts = [f"{layout}, split train, {with_masks} images"] if masked else []
    return "; ".join(counts + [f"{total - with_masks} images without masks"] * (total > with_masks))


def _validation(layout: str, data: Path) -> "SegmentationDataset":
    from ..data.open import open_dataset

    try:
        return open_dataset(layout, data, "val")
    except (ValueError, OSError) as error:
        raise ValueError(f"There is no val split to evaluate on: {error}. Train without one by --evaluate-every 0") from None


def _images(masked: "SegmentationDataset | None", unlabelled: Sequence[Path], labels: Labels) -> "SegmentationDataset":
    """What to train on: images with masks, without, or both."""
    from ..data.unlabelled import Joined, Unlabelled

    parts = [*([masked] if masked else []), *(Unlabelled(folder, labels) for folder in unlabelled)]
    return Joined(parts) if unlabelled else parts[0]


def _teachers(names: Sequence[str], cpu: bool) -> "list[Runtime]":
    """What runs them, networks on the GPU of this process if there is one."""
    from ..model_source import ExportedFile, parse_weights
    from ..runtimes.open import open_runtime

    device = "cpu" if cpu else torchrun_device()
    return [open_runtime(name, device=None if isinstance(parse_weights(name), ExportedFile) else device) for name in names]


def _labels(teacher: "Runtime", mapping: Mapping[str, Sequence[str]] | None) -> Labels:
    """The student's classes, where there are no masks: the mapping's, or else the teacher's."""
    from ..data.labels import distinct_colors

    if mapping is not None:
        return Labels(tuple(mapping), distinct_colors(len(mapping)))
    if teacher.labels is None:
        raise ValueError("The teacher has no labels, so its classes have no names; say with --teacher-mapping what they form")
    return teacher.labels


def _teacher_scores(
    teachers: "Sequence[Runtime]",
    protocol: str,
    mapping: Mapping[str, Sequence[str]] | None,
    images: "SegmentationDataset",
    folder: Path,
    stride: int,
) -> "TeacherScores":
    """The teachers' scores of the images: computed by every process for its share, with a bar, unless they are there."""
    from ..training.distill import TeacherScores, network_teacher

    rank, processes, _ = torchrun_process()
    made = [network_teacher(runtime, PROTOCOLS[protocol], images.labels, mapping) for runtime in teachers]
    scores = TeacherScores(folder, made, images, stride=stride)
    bar = progress_bar()
    bar.disable = rank > 0
    if rank == 0:
        size = sum(map(scores.size, range(len(images)))) / 1e9
        say(f"The teacher's probabilities of {len(images)} images take {size:.1f} GB in {scores.folder}", err)
    with bar:
        task = bar.add_task("teacher", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        scores.prepare(process=rank, processes=processes, progress=show)
    return scores


def _network(
    init: str | None,
    model: str,
    encoder_weights: str | None,
    seed: int,
    options: dict[str, Any],
    of_recipe: Mapping[str, Any],
) -> "PSPNet":
    """The network to train: a checkpoint's, or a new one with the auxiliary head."""
    import torch

    from ..factory import create, load

    torch.manual_seed(seed)  # the first weights of what is not pretrained
    if init:
        return load(init, **options)
    return create(model, encoder_weights=encoder_weights, **options, aux_head=True, **of_recipe)


@contextmanager
def _progress(recipe: Recipe, is_main: bool) -> Iterator[Callable[[int, float, float], None]]:
    """What a run calls after each step, with its loss and rate: a bar on a terminal, lines in a log file."""
    bar = progress_bar()
    bar.disable = not is_main
    with bar:
        task = bar.add_task("training", total=recipe.iterations)

        def show(step: int, loss: float, rate: float) -> None:
            text = f"loss {loss:.3f}  lr {rate:.5f}"
            bar.update(task, completed=step, description=text)
            if step % recipe.checkpoint_every == 0 and not err.is_terminal:
                say(f"step {step}/{recipe.iterations}  {text}", err)

        yield show
