"""The command `pspnet-zoo train`."""

import inspect
import json
import signal
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from ..data.layouts.names import LAYOUTS
from ..inference.protocols import PROTOCOLS
from ..training.recipes import AUTO, RECIPES, TRACKERS, Recipe
from ..training.trainer import Stopped, Trainer
from ..zoo.registry import parse_architecture
from .terminal import check_name, err, refuse_idle, say, torchrun_process
from .training_run import StartOptions, TeacherOptions, TrainingData, TrainingRun

if TYPE_CHECKING:
    from ..models.pspnet import PSPNet
    from ..training.train import TrainingResult

DISTILLATION = "Knowledge distillation"


def _with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command an option for each field of the recipe; None keeps the recipe's own value."""
    signature = inspect.signature(command)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, hint in get_type_hints(Recipe, include_extras=True).items():
        kind, text = get_args(hint)
        annotation = Annotated[kind | None, typer.Option(help=text, rich_help_panel="Settings of the recipe")]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
        command.__annotations__[name] = annotation
    command.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return command


@_with_recipe_options
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; in the end it holds model/.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the dataset; not needed with a teacher and --unlabelled.")] = None,
    recipe: Annotated[
        str, typer.Option(help=f"Recipe to start from: auto chooses one for fine-tuning by the backbone; {', '.join(RECIPES)}.")
    ] = AUTO,
    dataset: Annotated[
        str | None,
        typer.Option(show_default="the recipe's; told by its folders for auto", help=f"Layout of the data: {', '.join(LAYOUTS)}."),
    ] = None,
    model: Annotated[str | None, typer.Option(show_default="the recipe's", help="Architecture to build.")] = None,
    encoder_weights: Annotated[str | None, typer.Option(help="'imagenet', a timm tag, or a .safetensors file.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Checkpoint to start from instead of --model: a name of the zoo, a folder, or org/repo.")
    ] = None,
    output_stride: Annotated[
        int | None, typer.Option(show_default="8, or that of --init", help="Output stride of the encoder: 8, 16 or 32 pixels.")
    ] = None,
    fuse_blocks: Annotated[
        str | None,
        typer.Option(help="Blocks of a plain vision transformer to read together: the last ones, as 4, or indices, as 2,5,8,11."),
    ] = None,
    drop_path_rate: Annotated[
        float | None, typer.Option(show_default="0, or that of --init", help="Rate of the encoder's stochastic depth, 0 to 1.")
    ] = None,
    teacher: Annotated[
        list[str],
        typer.Option(
            help="Checkpoint or exported network whose probabilities are soft labels; repeat it for several, which are averaged.",
            rich_help_panel=DISTILLATION,
        ),
    ] = [],  # noqa: B006
    teacher_protocol: Annotated[
        str, typer.Option(help=f"How it segments an image: {', '.join(PROTOCOLS)}.", rich_help_panel=DISTILLATION)
    ] = "whole",
    teacher_mapping: Annotated[
        Path | None,
        typer.Option(help='JSON file for other classes: {"class": ["teacher\'s class", ...], ...}.', rich_help_panel=DISTILLATION),
    ] = None,
    teacher_cache: Annotated[
        Path | None, typer.Option(show_default="OUTPUT/teacher", help="Folder of its soft labels.", rich_help_panel=DISTILLATION)
    ] = None,
    teacher_stride: Annotated[
        int,
        typer.Option(help="Pixels in each direction for one soft label: 4 takes a sixteenth of 1.", rich_help_panel=DISTILLATION),
    ] = 1,
    unlabelled: Annotated[
        list[Path],
        typer.Option(help="Folder of images without masks, for the teacher; repeat it for more.", rich_help_panel=DISTILLATION),
    ] = [],  # noqa: B006
    workers: Annotated[int, typer.Option(min=0, max=1024, help="Processes that read images.")] = 1,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU though there is a GPU.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Run through torch.compile: a slow start, then faster steps.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUTPUT exactly where it stopped.")] = False,
    log: Annotated[
        str, typer.Option(help=f"Experiment trackers, with commas: {', '.join(TRACKERS)}; none for no log.")
    ] = "tensorboard",
    feature_cache: Annotated[
        Path | None, typer.Option(help="Folder for the features of a frozen encoder, computed once for each of --views.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Runs with as many seeds, from --seed on, each in OUTPUT/seed-N; ends with mean and spread.")
    ] = 1,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Try learning rates on the training images, print one, and train nothing.")
    ] = False,
    **settings: Any,
) -> None:
    """Train a network on masks, or on soft labels of other networks.

    It has the paper's auxiliary head and is trained on the train split; needs the extra 'train' of the package.

    Ctrl-C and SIGTERM stop it with a checkpoint, from which --resume continues.

    On several GPUs: torchrun --nproc-per-node N -m pspnet_zoo.cli train ...
    """
    _check_names([init, *teacher], model, teacher_protocol, recipe)
    if not teacher:
        refuse_idle("is for distillation; add --teacher", *(f"teacher_{n}" for n in ("protocol", "mapping", "cache", "stride")))
    if data is None:
        refuse_idle("is the layout of --data; give both, or neither", "dataset")
    if find_lr:
        refuse_idle("does nothing for --find-lr; leave one of them out", "log", "workers", "compile", "feature_cache", "teacher")
    trackers = [] if log == "none" else log.split(",")
    if not 1 <= seeds <= 1000 or (find_lr and (seeds > 1 or resume)):
        raise ValueError(f"--seeds is {seeds}; it can be 1 to 1000, and --find-lr goes with neither --seeds nor --resume")
    given = {name: value for name, value in settings.items() if value is not None}
    named = None if recipe == AUTO else RECIPES[recipe]
    layout = dataset or (named.dataset if named else None)
    start = StartOptions(named, model, init, encoder_weights, output_stride, fuse_blocks, drop_path_rate)

    def run(folder: Path, settings: dict[str, Any]) -> "float | None":
        teachers = TeacherOptions(
            teacher, teacher_protocol, teacher_mapping, teacher_cache or output / "teacher", teacher_stride, cpu
        )
        images = TrainingData(layout, data, unlabelled, bool(teacher))
        with Trainer(folder, leads=torchrun_process()[0] == 0) as trainer:
            try:
                training = TrainingRun(trainer, settings, images, start, teachers, resume and (seeds == 1 or _has_run(folder)))
                if find_lr:
                    rate = training.find_rate(cpu=cpu)
                    if trainer.leads:
                        say(f"Learning rate {rate:.2g}: a tenth of that with the lowest loss of those in {folder / 'find_lr.csv'}")
                    return None
                how = {"workers": workers, "cpu": cpu, "compile": compile, "log": trackers, "feature_cache": feature_cache}
                result = training.train(**how)
            except Stopped:
                raise _stopped(trainer, f"before {'the next' if resume else 'the first'} step; nothing was changed") from None
            if not result.is_complete:
                steps = f"after step {result.steps} of {training.recipe.iterations}"
                raise _stopped(trainer, f"{steps} with a checkpoint; continue with --resume")
            if trainer.leads:
                if result.best:
                    last = "none" if result.last_miou is None else f"{result.last_miou:.4f}"
                    say(f"Best mIoU {result.best_miou:.4f} in {result.best}, last {last}")
                    _say_start(result, init)
                if resume and _is_saved(training.network, folder / "model"):  # perhaps with a threshold since
                    say(f"'{folder / 'model'}' holds these weights already")
                else:
                    say(f"Wrote {training.network.save_pretrained(folder / 'model')}")
            if trainer.signal is not None:
                raise _stopped(trainer, "after the last step; the run is complete")
            return result.last_miou

    if seeds == 1:
        run(output, given)
        return
    first = given.get("seed", named.recipe.seed if named else 0)
    if resume and not any(_has_run(output / f"seed-{seed}") for seed in range(first, first + seeds)):
        raise ValueError(f"'{output}' holds no run to continue; leave out --resume")
    _say_spread(output, {seed: run(output / f"seed-{seed}", {**given, "seed": seed}) for seed in range(first, first + seeds)})


def _has_run(folder: Path) -> bool:
    from ..training.train import CHECKPOINT

    return (folder / CHECKPOINT).exists()


def _is_saved(network: "PSPNet", folder: Path) -> bool:
    """Whether a folder holds the network's weights."""
    from ..storage.files import CONFIG_FILE, read_config, weights_digest

    if not (folder / CONFIG_FILE).is_file():
        return False
    return read_config(folder).get("weights_sha256") == weights_digest(network.state_dict())


def _say_spread(folder: Path, found: dict[int, float | None]) -> None:
    """Print and write the last mIoU of each seed, their mean and their spread."""
    from ..storage.files import write_atomically

    mious = [miou for miou in found.values() if miou is not None]
    if torchrun_process()[0]:
        return
    if len(mious) < 2:
        say(
            f"Nothing to compare: {len(mious)} of {len(found)} seeds have an mIoU. Evaluate on a val split, by --evaluate-every",
            err,
        )
        return
    spread = {"mean": statistics.mean(mious), "standard_deviation": statistics.stdev(mious), "range": max(mious) - min(mious)}
    write_atomically(folder / "seeds.json", (json.dumps({"last_miou": found, **spread}, indent=2) + "\n").encode())
    each = ", ".join(f"{miou:.4f}" for miou in mious)
    say(f"Last mIoU of {len(mious)} seeds: {each}")
    say(f"Mean {spread['mean']:.4f}, standard deviation {spread['standard_deviation']:.4f}, range {spread['range']:.4f}")


def _say_start(result: "TrainingResult", init: str | None) -> None:
    """The mIoU of the start, where it was measured, with a word where training did not improve on it."""
    start, best, last = result.start_miou, result.best_miou, result.last_miou
    if start is None or best is None or last is None:
        return
    advice = ""
    if best <= start:
        advice = ", and training made it no better: keep it, or try a lower --lr or more images"
    elif last <= start:
        advice = f", and the last network is no better: take {result.best}"
    say(f"The start, {init}, had mIoU {start:.4f} on the same images{advice}")


def _check_names(checkpoints: Sequence[str | None], model: str | None, protocol: str, recipe: str) -> None:
    """Complain before anything large is imported."""
    for name in filter(None, checkpoints):
        check_name(name)
    if model:
        parse_architecture(model)
    if protocol not in PROTOCOLS:
        raise ValueError(f"--teacher-protocol is '{protocol}'; it can be {', '.join(PROTOCOLS)}")
    if recipe not in (AUTO, *RECIPES):
        raise ValueError(f"recipe is '{recipe}'; it can be {', '.join((AUTO, *RECIPES))}")


def _stopped(trainer: Trainer, when: str) -> typer.Exit:
    """The end of the command, with the exit code of a process that the signal ended."""
    if trainer.leads:
        say(f"Stopped {when}", err)
    return typer.Exit(128 + (trainer.signal or signal.SIGTERM))  # another process may have had the signal
