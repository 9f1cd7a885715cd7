"""A run made from the options of `pspnet-zoo train`: images, teachers, and the network to start from."""

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import missing_extra
from ..inference.protocols import PROTOCOLS
from ..meta import Labels, Preprocess
from ..training.recipes import RECIPES, NamedRecipe, Recipe, check_effects, choose_recipe
from ..training.trainer import Trainer
from .runtime import open_for_protocol
from .terminal import err, progress_bar, say, torchrun_device

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..data.dataset import SegmentationDataset
    from ..models.pspnet import PSPNet
    from ..runtimes.open import Runtime
    from ..training.distill import TeacherScores
    from ..training.train import TrainingResult

_LINE_EVERY = 10  # seconds

_log = logging.getLogger(__name__)


class TrainingRun:
    """A run, loaded and ready."""

    def __init__(
        self,
        trainer: Trainer,
        settings: Mapping[str, Any],
        data: "TrainingData",
        start: "StartOptions",
        teachers: "TeacherOptions",
        resume: bool,
    ) -> None:
        try:
            from ..training.train import CHECKPOINT
        except ModuleNotFoundError as error:
            raise missing_extra("Training", "train", error) from None
        if (trainer.folder / CHECKPOINT).exists() and not resume:
            raise ValueError(f"'{trainer.folder}' already holds a run; continue it with --resume, or choose another folder with -o")
        if resume and not (trainer.folder / CHECKPOINT).exists():
            raise ValueError(f"'{trainer.folder}' holds no run to continue; leave out --resume")
        self.trainer, self.resume = trainer, resume
        masked = data.masked()
        self.teachers = teachers.load()
        self.images = data.images(masked, masked.labels if masked else teachers.labels())
        seed = settings.get("seed", start.recipe.recipe.seed if start.recipe else 0)
        self.network, self.is_start = start.network(self.images.labels, seed, getattr(self.images, "preprocess", None))
        self.recipe = replace(self._recipe(start), **settings)
        if start.drop_path_rate and self.recipe.freeze == "encoder":
            raise ValueError(f"--drop-path-rate is {start.drop_path_rate:g}, which does nothing in a frozen encoder; leave it out")
        aux = self.network.auxiliary_head is not None
        check_effects(self.recipe, settings, masks=masked is not None, teacher=bool(teachers.names), aux_head=aux)
        factor, (low, high) = self.network.preprocess.input_scale, self.recipe.scale
        if factor != 1 and trainer.leads:
            most = self.network.preprocess.max_pixels / factor**2  # larger ones are predicted at a smaller factor
            text = f"times --scale {low:g} to {high:g}: images are resized by {factor * low:g} to {factor * high:g}"
            say(f"The network's input scale factor is {factor:g}, {text}, photos of more than {most:,.0f} pixels by less", err)
        self.validation = data.validation() if self.recipe.evaluate_every else None
        self.network.provenance = {
            "data": data.description(masked, len(self.images)),
            "start": start.description,
            **start.digest(self.network),
            "start_provenance": self.network.provenance,
            "recipe": asdict(self.recipe),
            **teachers.provenance(),
        }
        self.scores = teachers.scores(self.images)

    def _recipe(self, start: "StartOptions") -> Recipe:
        """The recipe that was named, or the one for the backbone, with a word on the choice."""
        if start.recipe:
            return start.recipe.recipe
        encoder = self.network.encoder
        pretrained = bool(start.init or start.encoder_weights)
        name, reason = choose_recipe(
            self.network.config["encoder_name"], convolutional=encoder.mechanism == "dilated", pretrained=pretrained
        )
        if self.trainer.leads:
            say(f"Recipe {name}: {reason}", err)
        return RECIPES[name].recipe

    def find_rate(self, *, cpu: bool) -> float:
        """Try learning rates on the network, which is of no use after; a bar shows the progress."""
        from ..training.methods.rates import find_learning_rate

        with _progress(self.recipe, None, self.trainer.leads) as (show, _):
            return find_learning_rate(
                self.network, self.images, self.recipe, self.trainer.folder, cpu=cpu, progress=show, trainer=self.trainer
            )

    def train(self, **how: Any) -> "TrainingResult":
        """Train; a bar shows the progress."""
        from ..training.train import train

        with _progress(self.recipe, self.scores, self.trainer.leads) as (show, show_evaluation):
            return train(
                self.network,
                self.images,
                self.recipe,
                self.trainer.folder,
                validation=self.validation,
                teacher=self.scores,
                resume=self.resume,
                measure_start=self.is_start,
                progress=show,
                evaluation_progress=show_evaluation,
                trainer=self.trainer,
                **how,
            )


@dataclass(frozen=True)
class TrainingData:
    """Images to train on: with masks, without, or both."""

    layout: str | None
    folder: Path | None
    unlabelled: Sequence[Path]
    has_teacher: bool

    def __post_init__(self) -> None:
        if (self.unlabelled and not self.has_teacher) or not (self.folder or self.unlabelled):
            raise ValueError("There is nothing to train on; give --data, or --teacher and --unlabelled")

    def masked(self) -> "SegmentationDataset | None":
        from ..data.open import open_dataset

        return open_dataset(self._layout(self.folder), self.folder, "train") if self.folder else None

    def _layout(self, folder: Path) -> str:
        from ..data.open import guess_layout

        return self.layout or guess_layout(folder)

    def validation(self) -> "SegmentationDataset | None":
        from ..data.open import open_dataset

        if self.folder is None:
            return None
        try:
            return open_dataset(self._layout(self.folder), self.folder, "val")
        except (ValueError, OSError) as error:
            raise ValueError(f"There is no val split to evaluate on: {error}. Train without one by --evaluate-every 0") from None

    def images(self, masked: "SegmentationDataset | None", labels: Labels) -> "SegmentationDataset":
        from ..data.unlabelled import Joined, Unlabelled

        if self.unlabelled and getattr(masked, "preprocess", None):
            raise ValueError(
                "--unlabelled images are read as 8-bit RGB, and the dataset states another preprocessing; leave them out"
            )
        parts = [*([masked] if masked else []), *(Unlabelled(folder, labels) for folder in self.unlabelled)]
        return Joined(parts) if self.unlabelled else parts[0]

    def description(self, masked: "SegmentationDataset | None", total: int) -> str:
        """For the provenance."""
        with_masks = len(masked) if masked else 0
        counts = [f"{self._layout(self.folder)}, split train, {with_masks} images"] if masked and self.folder else []
        return "; ".join(counts + [f"{total - with_masks} images without masks"] * (total > with_masks))


@dataclass
class TeacherOptions:
    """Networks whose predictions are soft labels."""

    names: Sequence[str]
    protocol: str
    mapping_file: Path | None
    cache: Path
    stride: int
    cpu: bool
    mapping: Mapping[str, Sequence[str]] | None = None
    runtimes: "Sequence[Runtime]" = ()

    def load(self) -> "Sequence[Runtime]":
        """The teachers, those that are networks on the GPU of this process if there is one."""
        from ..training.distill import read_mapping

        self.mapping = read_mapping(self.mapping_file) if self.mapping_file else None
        if self.names:
            device = "cpu" if self.cpu else torchrun_device()
            self.runtimes = [open_for_protocol(name, self.protocol, device=device) for name in self.names]
        return self.runtimes

    def labels(self) -> Labels:
        """The student's classes, where there are no masks: the mapping's, or else the first teacher's."""
        if self.mapping is not None:
            return Labels(tuple(self.mapping))
        if self.runtimes[0].labels is None:
            raise ValueError("The teacher has no labels, so its classes have no names; give --teacher-mapping")
        return self.runtimes[0].labels

    def provenance(self) -> dict[str, Any]:
        """For the network that is trained."""
        if not self.names:
            return {}
        networks = [
            {"name": _published_name(name), "provenance": net.provenance}
            for name, net in zip(self.names, self.runtimes, strict=True)
        ]
        return {"teachers": {"protocol": self.protocol, "mapping": self.mapping, "networks": networks}}

    def scores(self, images: "SegmentationDataset") -> "TeacherScores | None":
        """Their soft labels of the images, not yet computed."""
        from ..training.distill import TeacherScores, network_teacher

        if not self.names:
            return None
        made = [network_teacher(runtime, PROTOCOLS[self.protocol], images.labels, self.mapping) for runtime in self.runtimes]
        return TeacherScores(self.cache, made, images, stride=self.stride)


@dataclass(frozen=True)
class StartOptions:
    """The network to train: a checkpoint's, or a new one with the auxiliary head."""

    recipe: NamedRecipe | None
    model: str | None
    init: str | None
    encoder_weights: str | None
    output_stride: int | None
    fuse_blocks: str | None = None
    drop_path_rate: float | None = None

    def __post_init__(self) -> None:
        if self.fuse_blocks is not None and not re.fullmatch(r"\d+(,\d+)*,?", self.fuse_blocks):
            raise ValueError(
                f"--fuse-blocks is '{self.fuse_blocks}'; it is a number of last blocks, as 4, or their indices, as 2,5,8,11"
            )
        for option, value in (
            ("--model", self.model),
            ("--encoder-weights", self.encoder_weights),
            ("--fuse-blocks", self.fuse_blocks),
        ):
            if self.init and value:
                raise ValueError(
                    f"--init is '{self.init}', which has an architecture and weights of its own; leave out {option} {value}"
                )

    @property
    def description(self) -> str:
        """For the provenance."""
        if self.init:
            return _published_name(self.init)
        weights = self.encoder_weights
        if weights and weights.endswith(".safetensors"):
            weights = Path(weights).name
        return f"encoder weights {weights}" if weights else "untrained"

    def digest(self, network: "PSPNet") -> dict[str, str]:
        """For the provenance, the SHA-256 of the weights that were loaded: without heads, which other classes make anew."""
        from ..storage.files import weights_digest

        parts = ("encoder.", "decoder.") if self.init else ("encoder.",) if self.encoder_weights else ()
        tensors = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(parts)}
        return {"start_sha256": weights_digest(tensors)} if tensors else {}

    def network(self, labels: Labels, seed: int, preprocess: Preprocess | None) -> "tuple[PSPNet, bool]":
        """With these classes, and for these images where they are not 8-bit RGB; and whether it is a checkpoint of these classes.

        The classifier of a checkpoint with other classes is made anew.
        """
        import torch

        from ..factory import create, load

        torch.manual_seed(seed)  # the first weights of what is not pretrained
        options: dict[str, Any] = {"classes": len(labels), "multilabel": labels.multilabel}
        if self.output_stride is not None:
            options["encoder_output_stride"] = self.output_stride
        if self.drop_path_rate is not None:
            options["drop_path_rate"] = self.drop_path_rate
        if self.fuse_blocks is not None:
            blocks = [int(number) for number in self.fuse_blocks.split(",") if number]
            options["encoder_fuse"] = blocks[0] if "," not in self.fuse_blocks else blocks
        if preprocess is not None:
            options["in_channels"] = len(preprocess.mean)
        is_same = False
        if self.init:
            network = load(self.init, **options)
            is_same = network.labels is not None and network.labels.names == labels.names
            if network.labels is not None and network.labels.names != labels.names:
                others = [name for name in labels.names if name not in network.labels.names] or ["the order"]
                shown = ", ".join(others[:5]) + (" ..." if len(others) > 5 else "")
                _log.warning("The classes of '%s' are others, by %s: its classifier is made anew", self.init, shown)
                network.reset_classifier(len(labels))
        else:
            named = self.recipe or RECIPES["finetune"]
            options |= {"encoder_weights": self.encoder_weights, "aux_head": True, **named.network}
            network = create(self.model or named.model, **options)
        network.labels = labels
        network.preprocess = preprocess or network.preprocess
        return network, is_same


def _published_name(source: str) -> str:
    """A model as its provenance names it: of a folder or file the last part, since paths of this machine are nobody else's."""
    from ..model_source import ExportedFile, Folder, parse

    return Path(os.path.abspath(source)).name if isinstance(parse(source), ExportedFile | Folder) else source


@contextmanager
def _progress(
    recipe: Recipe, scores: "TeacherScores | None", leads: bool
) -> "Iterator[tuple[Callable[[int, float, float], None], Callable[[int, int], None]]]":
    """The progress of a run, told after each step, and after each image of an evaluation.

    A bar for each on a terminal, else a line every ten seconds and at the last step.
    """
    bar, shown = progress_bar(lines=scores is not None), -math.inf  # with a teacher, its progress too
    bar.disable = not leads
    with bar:
        if scores:
            _show_teacher(bar, scores, leads)
        task = bar.add_task("training", total=recipe.iterations, start=not scores)
        evaluation = bar.add_task("evaluating", total=None, start=False, visible=False)

        def line(text: str, *, always: bool) -> None:
            nonlocal shown
            now = time.monotonic()
            if not err.is_terminal and (now - shown >= _LINE_EVERY or always):
                shown = now
                say(text, err)

        def show(step: int, loss: float, rate: float) -> None:
            text = f"loss {loss:.3f}  lr {rate:.5f}"
            bar.start_task(task)
            bar.update(task, completed=step, description=text)
            line(f"step {step}/{recipe.iterations}  {text}", always=step == recipe.iterations)

        def show_evaluation(done: int, total: int) -> None:
            if done == 1:
                bar.reset(evaluation, total=total)
            bar.update(evaluation, completed=done, visible=done < total)
            line(f"evaluating {done}/{total}", always=False)

        yield show, show_evaluation


def _show_teacher(bar: "Progress", scores: "TeacherScores", leads: bool) -> None:
    """Show the computation of soft labels; their size is said at its start."""
    task = None

    def show(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            task = bar.add_task("teacher", total=total)
        bar.update(task, completed=done)

    scores.progress = show
    if leads:
        size = sum(map(scores.size, range(len(scores.dataset)))) / 1e9
        say(f"The teacher's soft labels of {len(scores.dataset)} images take {size:.1f} GB in {scores.folder}", err)
