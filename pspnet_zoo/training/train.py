"""Training on one or many processes, which can be interrupted at any moment and resumed exactly.

No state of a random generator is stored: the order of images, their augmentation and the dropout of a step follow from the seed and
the number of the step. Weights, the optimizer's state, the running average and that number are thus the whole state of a run.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from timm.layers import convert_sync_batchnorm
from torch import nn

from ..data.check import mask_doubts
from ..data.dataset import CheckedDataset, SegmentationDataset, as_segmentation_dataset
from ..evaluation.evaluate import Evaluation, EvaluationStopped, check_classes, evaluate
from ..inference.protocols import PROTOCOLS
from ..inference.scores import labels_of
from ..meta import Preprocess
from ..models.pspnet import PSPNet
from ..storage.errors import naming
from ..storage.files import write_atomically
from .distill import TeacherScores
from .log import Log, check_trackers
from .methods.features import FeatureCache, check_features
from .methods.lora import lora_added, merged
from .methods.step import OptimizerStep
from .recipes import Recipe
from .run import Run, best_evaluation, identity
from .stream import Stream, batches, read_ahead
from .trainer import Trainer

CHECKPOINT = "checkpoint.safetensors"
BEST = "best"

RESULT = "result.json"

Progress = Callable[[int, float, float], None]
"""Called after each step with the number of steps done, the loss and the highest learning rate in the encoder."""

EvaluationProgress = Callable[[int, int], None]
"""Called after each image of an evaluation with the number of images that this process has done, and their total."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run; its numbers are in `result.json` and `history.csv` too."""

    steps: int
    """Steps done."""
    is_complete: bool
    """Whether the run came to its end, by its last step and its evaluation, or by early stopping."""
    history: tuple[dict[str, Any], ...]
    """The evaluations: "step", "learning_rate", "train_loss" (of that step), "loss", "miou", "pixel_accuracy", "mean_accuracy", and
    "iou" by class name, None for a class that neither occurs nor was predicted. That of the start, where it was measured, is of
    step 0, without learning rate and training loss."""
    best: Path | None
    """The checkpoint with the best mIoU; None if no evaluation after the start has one."""

    @property
    def start_miou(self) -> float | None:
        """The mIoU before the first step, 0 to 1; None where it was not measured."""
        return next((entry["miou"] for entry in self.history if not entry["step"]), None)

    @property
    def best_miou(self) -> float | None:
        """The highest mIoU after the start, 0 to 1; None without evaluations that have one."""
        return best_evaluation(self.history).get("miou")

    @property
    def last_miou(self) -> float | None:
        """The mIoU of the last evaluation after the start, 0 to 1; None without evaluations."""
        return self.history[-1]["miou"] if self.history and self.history[-1]["step"] else None

    def summary(self) -> dict[str, Any]:
        """The numbers as JSON."""
        step = best_evaluation(self.history).get("step")
        return {
            **{"steps": self.steps, "complete": self.is_complete, "start_miou": self.start_miou, "last_miou": self.last_miou},
            **{"best_miou": self.best_miou, "best_step": step, "best": self.best.name if self.best else None},
        }


def train(
    model: PSPNet,
    dataset: Any,
    recipe: Recipe,
    folder: Path,
    *,
    validation: Any = None,
    teacher: TeacherScores | None = None,
    resume: bool = False,
    workers: int = 0,
    cpu: bool = False,
    compile: bool = False,
    log: Sequence[str] = ("tensorboard",),
    feature_cache: Path | None = None,
    measure_start: bool = False,
    progress: Progress | None = None,
    evaluation_progress: EvaluationProgress | None = None,
    trainer: Trainer | None = None,
) -> TrainingResult:
    """Train a network in place. SIGTERM and SIGINT end the run after the current step, or image of an evaluation.

    Started by `torchrun` or `accelerate launch`, the processes share each step's batch; all must call this alike. With several
    GPUs, batch norms take their statistics over all of them.

    Args:
        model: Its weights are the start, unless a checkpoint is resumed. It is moved to the GPU of its process, where there is one.
        dataset: What to train on: of `open_dataset`, or any dataset that `pspnet_zoo.data.dataset.CheckedDataset` takes.
        recipe: The run's settings.
        folder: Takes `recipe.json`, the logs, `history.csv` with a row for each evaluation, the network with the best
            mIoU on `validation` as `best`, `result.json`, and `checkpoint.safetensors`, replaced every `recipe.checkpoint_every`
            steps, at a signal, before each evaluation, and at the end.
        validation: Evaluated every `recipe.evaluate_every` steps and at the end; None for never.
        teacher: Soft labels of the images of `dataset`, beside or in place of their masks; missing ones are computed first.
        resume: Continue from the folder's checkpoint, to the weights that an uninterrupted run would have had.
        workers: Processes that read images, for each that trains; 0 reads in this one. The result does not depend on it.
        cpu: Train on the CPU though there is a GPU.
        compile: Whether to run through torch.compile: a slow start, then faster steps.
        log: Experiment trackers to log to: tensorboard, wandb, mlflow, trackio. See `pspnet_zoo.training.log.Log`.
        feature_cache: Folder for the features of a frozen encoder, which are then computed once for each of the recipe's `views`.
        measure_start: Evaluate the network before the first step too.
        progress: See `Progress`; called in the main process only.
        evaluation_progress: See `EvaluationProgress`; called in the main process only.
        trainer: What holds the folder and hears signals already, from before this call; None to do so during it.

    Returns:
        What the run found. It is not complete if a signal stopped it.

    Raises:
        WeightsError: If there is no checkpoint to resume, or it is damaged or of another run.
        ValueError: If network, dataset and recipe do not fit each other, or another run holds the folder.
        FloatingPointError: If the loss is NaN or infinite; it names the images, and the last checkpoint stays.
        Stopped: If a signal arrived before the first step.
    """
    check_trackers(log)
    accelerator = open_accelerator(recipe, cpu)
    check_network(model, recipe, accelerator, evaluates=validation is not None and recipe.evaluate_every > 0)
    if feature_cache:
        check_features(model, recipe, has_teacher=teacher is not None, compile=compile)
    labels, channels = labels_of(model), model.config["in_channels"]
    dataset = as_segmentation_dataset(dataset, labels, channels=channels)
    validation = None if validation is None else as_segmentation_dataset(validation, labels, channels=channels)
    for each in filter(None, (dataset, validation)):
        check_classes(model, each.labels)
        _check_pixels(model, each.preprocess)
    if model.multilabel:
        check_multilabel(recipe, has_teacher=teacher is not None)
    with nullcontext(trainer) if trainer else Trainer(folder, leads=accelerator.is_main_process) as trainer:
        if accelerator.is_main_process:
            _check_masks(dataset)
        loop = _Loop(trainer, accelerator, model, dataset, recipe, folder, validation, teacher)
        loop.measure_start, loop.progress, loop.evaluation_progress = measure_start, progress, evaluation_progress
        with lora_added(model, recipe.lora_rank, recipe.lora_alpha, recipe.seed), frozen(model, recipe.freeze):
            return loop.run(resume=resume, workers=workers, compile=compile, log=log, feature_cache=feature_cache)


@dataclass
class _Loop:
    """The steps of a run, from its preparation to its last checkpoint."""

    trainer: Trainer
    accelerator: Accelerator
    model: PSPNet
    dataset: CheckedDataset
    recipe: Recipe
    folder: Path
    validation: CheckedDataset | None
    teacher: TeacherScores | None
    measure_start: bool = False
    progress: Progress | None = None
    evaluation_progress: EvaluationProgress | None = None

    def run(self, *, resume: bool, workers: int, compile: bool, log: Sequence[str], feature_cache: Path | None) -> TrainingResult:
        """Prepare and train."""
        accelerator, model, recipe, teacher = self.accelerator, self.model, self.recipe, self.teacher
        known_by = identity(model, self.dataset, self.validation, teacher.name if teacher else None)
        threshold, model.threshold = model.threshold, None  # it is of the weights before the first step
        model.to(accelerator.device).to(memory_format=torch.channels_last)  # dilated depthwise: several times faster so on CPUs
        own_norms = _sync_norms(model) if accelerator.num_processes > 1 and accelerator.device.type == "cuda" else {}
        run = Run(model, recipe, accelerator, self.folder / CHECKPOINT, known_by)
        run.evaluates_start, run.evaluates = self.measure_start, self.validation is not None
        if resume:
            run.load()
        if teacher:
            teacher.prepare(process=accelerator.process_index, processes=accelerator.num_processes)
            accelerator.wait_for_everyone()
        run.weigh_classes(self.dataset)
        stream = Stream(self.dataset, teacher, recipe, model.preprocess)
        if feature_cache:
            stream.cache = FeatureCache(feature_cache, model, stream, recipe)
            stream.cache.prepare(model, accelerator)
        step = OptimizerStep(run, stream, compile)
        order = batches(recipe, run.step, accelerator.process_index, accelerator.num_processes)
        model.train()
        run.result.threshold = None if run.step else threshold
        owed = self.measure(run) if run.owes_evaluation else None
        self.trainer.begin()
        logged = Log(self.folder, recipe, run.step, accelerator.is_main_process, log)
        with naming(self.folder), logged as writer, read_ahead(stream, order, workers) as micro_batches:
            if owed:
                self.keep(run, owed, writer)
                self.save(run) if run.step else None
            run.result.threshold = None
            while not run.is_complete and not self.step(run, step, micro_batches, writer):
                pass
        run.finish()
        for name, norm in own_norms.items():
            model.set_submodule(name, norm)
        result = TrainingResult(run.step, run.is_complete, tuple(run.history), self.folder / BEST if run.best_step else None)
        if accelerator.is_main_process:
            write_atomically(self.folder / RESULT, (json.dumps(result.summary(), indent=2) + "\n").encode())
        return result

    def step(self, run: Run, step: OptimizerStep, micro_batches: Any, log: Log) -> bool:
        """One step, and what is due after it: evaluation and checkpoint. Whether a signal ends the run."""
        recipe, is_main = self.recipe, self.accelerator.is_main_process
        rate = run.set_rate()
        loss = step([next(micro_batches) for _ in range(recipe.accumulation)])
        mean_loss = run.mean(loss).item()
        log.step(run.step, mean_loss, rate)
        if self.progress and is_main:
            self.progress(run.step, mean_loss, rate)
        run.last = {"learning_rate": rate, "train_loss": mean_loss}
        # one process's signal stops all, after the same step
        stops = bool(run.mean(loss.new_tensor(float(self.trainer.signal is not None))))
        if run.owes_evaluation and not stops:
            self.save(run)
            scores = self.measure(run)
            if scores:
                self.keep(run, scores, log)
            stops = scores is None
        if run.step % recipe.checkpoint_every == 0 or stops or run.is_complete:
            self.save(run)
        return stops

    def measure(self, run: Run) -> Evaluation | None:
        """Evaluate the network; None if a signal stopped that."""
        run.share_statistics()
        total = math.ceil(len(self.validation or ()) / self.accelerator.num_processes)
        show = self.evaluation_progress
        try:
            return evaluate(
                run.result,
                self.validation,
                PROTOCOLS["tiles" if self.recipe.full_size else "whole"],
                progress=(lambda done: show(done, total)) if show else None,
                stops=lambda: self.trainer.signal is not None,
            )
        except EvaluationStopped:
            return None

    def keep(self, run: Run, scores: Evaluation, log: Log) -> None:
        """Log an evaluation, and keep the network if it is the best so far."""
        miou = None if math.isnan(scores.miou) else scores.miou  # of images without any object, in which none was found
        found = {"miou": miou, "pixel_accuracy": scores.pixel_accuracy, "mean_accuracy": scores.mean_accuracy}
        run.history.append({"step": run.step, **run.last, "loss": scores.loss, **found, "iou": scores.iou})
        log.scores(run.history, scores, run.result, cast(SegmentationDataset, self.validation))
        if self.accelerator.is_main_process and run.step and miou is not None and miou > run.best:
            run.best = miou
            merged(run.result).save_pretrained(self.folder / BEST)

    def save(self, run: Run) -> None:
        """Write the checkpoint."""
        run.share_statistics()
        if self.accelerator.is_main_process:
            run.save()


def open_accelerator(recipe: Recipe, cpu: bool) -> Accelerator:
    """accelerate's handle on devices, processes and precision, of which it keeps one for a Python process."""
    cpu = cpu or not torch.cuda.is_available()  # else accelerate takes the processes of torchrun for single ones
    try:
        return Accelerator(cpu=cpu, mixed_precision=recipe.precision)
    except ValueError:
        if torch.distributed.is_initialized():
            raise
        AcceleratorState._reset_state(True)  # of an earlier run with another precision or device
        return Accelerator(cpu=cpu, mixed_precision=recipe.precision)


def check_network(model: PSPNet, recipe: Recipe, accelerator: Accelerator, *, evaluates: bool) -> None:
    """Refuse what training, and evaluation where there is one, cannot do with a network and this machine and its processes."""
    processes = accelerator.num_processes
    if recipe.batch_size % (processes * recipe.accumulation):
        raise ValueError(
            f"batch_size is {recipe.batch_size}; it must be a multiple of {processes} processes times {recipe.accumulation} "
            "micro-batches"
        )
    if recipe.precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("precision is 'fp16', which needs a GPU; on a CPU it can be 'bf16' or 'no', which is float32")
    if recipe.full_size and evaluates and model.preprocess.input_scale != 1:
        raise ValueError(
            f"full_size is on, and the network's input scale factor is {model.preprocess.input_scale:g}, at which no protocol "
            "evaluates windows; set evaluate_every to 0"
        )
    if model.classification_head is not None:
        raise ValueError("Training here knows masks only; build the network without aux_params")
    if model.activation not in (None, "identity"):
        raise ValueError(f"Training needs logits; build the network without activation={model.activation!r}")


def _check_pixels(model: PSPNet, stated: Preprocess | None) -> None:
    """Refuse images that the network does not take as the dataset states them."""
    if stated is not None and replace(model.preprocess, max_pixels=stated.max_pixels, input_scale=stated.input_scale) != stated:
        raise ValueError(
            f"The dataset states its preprocessing, {stated}, and the network has {model.preprocess}; set "
            "net.preprocess = dataset.preprocess, with as many in_channels"
        )


def check_multilabel(recipe: Recipe, *, has_teacher: bool) -> None:
    """Refuse what is of classes that exclude each other."""
    if has_teacher:
        raise ValueError("A teacher's soft labels are of one class a pixel, and this network is multi-label; train it on masks")
    if recipe.class_weight_power:
        raise ValueError(
            f"class_weight_power is {recipe.class_weight_power}, which weighs classes that exclude each other, and this network is "
            "multi-label; set it to 0, and dice_weight to 1 to count rare classes alike"
        )


def _check_masks(dataset: SegmentationDataset) -> None:
    """Refuse masks that cannot be meant so, and log what is doubtful.

    Raises:
        ValueError: If the masks hold nothing but the first class and ignored pixels.
    """
    if not dataset.masks:
        return
    error, warnings = mask_doubts(dataset)
    if error:
        raise ValueError(error)
    for warning in warnings:
        _log.warning("Warning: %s", warning)


def _sync_norms(model: PSPNet) -> dict[str, nn.Module]:
    """Replace batch norms by ones with statistics over all processes, on the same tensors; return the network's own by name.

    Norms whose weights are buffers stay: nothing uses their outputs, see `pspnet_zoo.models.encoder`, and timm takes parameters.
    """
    own: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not {"weight", "bias"} & dict(module.named_buffers()).keys()
    }
    for name, norm in own.items():
        model.set_submodule(name, convert_sync_batchnorm(norm))
    return own


@contextmanager
def frozen(model: PSPNet, what: str) -> Iterator[None]:
    """In the block, "encoder", "norms" or "nothing" of the network is frozen; after it, what was before."""
    if what == "encoder" and not model.encoder_is_frozen:
        freeze, undo = model.freeze_encoder, model.unfreeze_encoder
    elif what == "norms" and not model.norms_are_frozen:
        freeze, undo = model.freeze_norms, model.unfreeze_norms
    else:
        yield
        return
    learned = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    freeze()
    try:
        yield
    finally:
        undo()
        for parameter, learns in learned:
            parameter.requires_grad_(learns)
