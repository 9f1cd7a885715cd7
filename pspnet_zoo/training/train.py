"""Training on one or many processes, interruptible at any moment and resumed exactly.

Nothing random is carried along: the order of images, their augmentation and the dropout of a step follow from the seed and the
number of the step. Weights, momentum, the running average and that number are thus the whole state of a run.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from ..data.dataset import SegmentationDataset
from ..evaluation.evaluate import evaluate
from ..models.pspnet import PSPNet
from ..runtimes.cpu.depthwise import FastDepthwise
from .distill import TeacherScores, distillation_loss, taught
from .log import Log
from .loss import pixel_mass, segmentation_loss
from .recipes import Recipe
from .run import Run
from .stream import Stream, batches, read_ahead, seed_of

CHECKPOINT = "checkpoint.safetensors"
BEST = "best"

Progress = Callable[[int, float, float], None]
"""Called after each step with the number of steps done, the loss and the encoder's learning rate."""


def train(
    model: PSPNet,
    dataset: SegmentationDataset,
    recipe: Recipe,
    folder: Path,
    *,
    validation: SegmentationDataset | None = None,
    teacher: TeacherScores | None = None,
    resume: bool = False,
    workers: int = 0,
    cpu: bool = False,
    compile: bool = False,
    progress: Progress | None = None,
) -> int:
    """Train a network in place. SIGTERM and SIGINT end the run after the step at hand.

    Started by `torchrun` or `accelerate launch`, the processes share each step's batch; all must call this alike. With several
    GPUs, batch norms take their statistics over all of them.

    Args:
        model: Its weights are the start, unless a checkpoint is resumed. It is moved to the GPU of its process, where there is one.
        dataset: What to train on.
        recipe: The run's numbers.
        folder: Takes `recipe.json`, a `tensorboard` log, the network with the best mIoU on `validation` as `best`, and
            `checkpoint.safetensors`, replaced every `recipe.checkpoint_every` steps, at a signal, and at the end.
        teacher: Scores of the images of `dataset`, beside or in place of their masks; those that are missing are computed first.
        validation: Evaluated every `recipe.evaluate_every` steps and at the end; None for never.
        resume: Continue from the folder's checkpoint, with the weights that an uninterrupted run would have had.
        workers: Processes that read images, for each that trains; 0 reads in this one. The result does not depend on it.
        cpu: Train on the CPU though there is a GPU.
        compile: Whether to run through torch.compile: a slow start, then faster steps.
        progress: See `Progress`; called in the main process only.

    Returns:
        The steps done: `recipe.iterations`, or fewer if a signal stopped the run.

    Raises:
        WeightsError: If there is no checkpoint to resume, or it is damaged or of another run.
        ValueError: If the batch cannot be shared evenly, or the network has an image-level head.
        FloatingPointError: If the loss is not finite; it names the images, and the last checkpoint stays.
    """
    accelerator = Accelerator(cpu=cpu, mixed_precision=recipe.precision)
    _check(model, recipe, accelerator.num_processes)
    model.to(accelerator.device).to(memory_format=torch.channels_last)  # dilated depthwise: several times faster so on CPUs
    _freeze(model, recipe.freeze)
    own_norms = _sync_norms(model) if accelerator.num_processes > 1 and accelerator.device.type == "cuda" else {}
    run = Run(model, recipe, accelerator, folder / CHECKPOINT, teacher.name if teacher else None)
    if resume:
        run.load()
    if teacher:
        teacher.prepare(process=accelerator.process_index, processes=accelerator.num_processes)
        accelerator.wait_for_everyone()
    run.weigh_classes(dataset)
    stream = Stream(dataset, teacher, recipe, model.preprocess)
    step = _Step(run, stream, compile)
    order = batches(recipe, run.step, accelerator.process_index, accelerator.num_processes)
    model.train()
    logged = Log(folder, recipe, run.step, accelerator.is_main_process)
    with _stop_signals() as stopped, logged as log, read_ahead(stream, order, workers) as parts:
        while run.step < recipe.iterations:
            rate = run.set_rate()
            loss = step([next(parts) for _ in range(recipe.accumulation)])
            mean_loss = run.mean(loss).item()
            log.step(run.step, mean_loss, rate)
            if progress and accelerator.is_main_process:
                progress(run.step, mean_loss, rate)
            # one process's signal stops all, after the same step
            stop = bool(run.mean(loss.new_tensor(float(stopped.is_set()))))
            ends = run.step == recipe.iterations
            if validation is not None and recipe.evaluate_every and (run.step % recipe.evaluate_every == 0 or ends):
                _validate(run, validation, log, folder / BEST)
            if run.step % recipe.checkpoint_every == 0 or stop or ends:
                run.share_statistics()
                if accelerator.is_main_process:
                    run.save()
            if stop:
                break
    done = run.finish()
    for name, norm in own_norms.items():
        model.set_submodule(name, norm)
    return done


class _Step:
    """One step of the optimizer: every part of its batch forward and backward, then the weights."""

    def __init__(self, run: Run, stream: Stream, compile: bool) -> None:
        self.run, self.stream = run, stream
        self.forward = torch.compile(run.network) if compile else run.network
        # float32 is no faster by parts, see benchmarks/depthwise.py
        by_parts = run.accelerator.device.type == "cpu" and run.recipe.precision == "bf16" and not compile
        self.convolutions = FastDepthwise() if by_parts else nullcontext()

    def __call__(self, parts: list[list[Tensor]]) -> Tensor:
        """This process's share of the step's loss, from (images, masks, positions, targets) of each part."""
        run, accelerator = self.run, self.run.accelerator
        parts = [[tensor.to(accelerator.device) for tensor in part] for part in parts]
        masses = [self.mass(masks, targets) for _, masks, _, targets in parts]
        # every pixel of the step counts alike, whichever process or part it is in
        mean_mass = run.mean(torch.stack(masses).sum(dim=0)).clamp(min=1e-6)
        loss = torch.zeros((), device=accelerator.device)
        for index, ((images, masks, positions, targets), mass) in enumerate(zip(parts, masses, strict=True)):
            number = (run.step * run.recipe.accumulation + index) * accelerator.num_processes + accelerator.process_index
            torch.manual_seed(seed_of(run.recipe.seed, number))  # dropout
            is_last = index + 1 == run.recipe.accumulation
            with nullcontext() if is_last else accelerator.no_sync(run.network):
                part_loss = self.loss(images, masks, targets, mass / mean_mass)
                self.check(part_loss, positions)
                accelerator.backward(part_loss)
            loss += part_loss.detach()
        run.take_step()
        return loss

    def mass(self, masks: Tensor, targets: Tensor) -> Tensor:
        """(2,) float: the pixels that count for the masks' loss, and for the teacher's."""
        seen = taught(targets, self.run.recipe.teacher_confidence).sum().float()
        return torch.stack([pixel_mass(masks, self.run.class_weights), seen])

    def loss(self, images: Tensor, masks: Tensor, targets: Tensor, fraction: Tensor) -> Tensor:
        """Of one part: (N, 3, H, W) uint8 images against (N, H, W) class ids and what the teacher says.

        `share`, (2,), is what the pixels of the part are of those of the step, for the masks' loss and for the teacher's.
        """
        model, recipe = self.run.model, self.run.recipe
        x = model.preprocess(images).contiguous(memory_format=torch.channels_last)
        with self.convolutions:
            outputs = self.forward(x, return_aux=model.auxiliary_head is not None)
        loss = segmentation_loss(
            outputs,
            masks,
            aux_weight=recipe.aux_weight,
            class_weights=self.run.class_weights,
            ohem_threshold=recipe.ohem_threshold,
            ohem_min_kept=recipe.ohem_min_kept,
            dice_weight=recipe.dice_weight,
        )
        teacher = self.stream.teacher
        if teacher is None:
            return loss * fraction[0]
        distillation = distillation_loss(
            outputs,
            targets,
            known=teacher.known,
            temperature=recipe.teacher_temperature,
            confidence=recipe.teacher_confidence,
            aux_weight=recipe.aux_weight,
        )
        return loss * fraction[0] + recipe.teacher_weight * distillation * fraction[1]

    def check(self, loss: Tensor, positions: Tensor) -> None:
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {self.run.step}; lower the learning rate ({self.run.recipe.lr}), or look at "
                + ", ".join(f"'{self.stream.path(int(p))}'" for p in positions)
            )


def _check(model: PSPNet, recipe: Recipe, processes: int) -> None:
    if recipe.batch_size % (processes * recipe.accumulation):
        raise ValueError(
            f"batch_size is {recipe.batch_size}; it must divide evenly among {processes} processes "
            f"times {recipe.accumulation} accumulated parts"
        )
    if model.classification_head is not None:
        raise ValueError("Training here knows masks only; build the network without aux_params")
    if model.activation not in (None, "identity"):
        raise ValueError(f"Training needs logits; build the network without activation={model.activation!r}")


def _validate(run: Run, validation: SegmentationDataset, log: Log, best: Path) -> None:
    """Evaluate, log, and keep the network if it is the best so far."""
    run.share_statistics()
    scores = evaluate(run.result, validation)
    log.scores(run.step, scores, run.result, validation)
    if run.accelerator.is_main_process and scores.miou > run.best:
        run.best = scores.miou
        run.result.save_pretrained(best)


def _sync_norms(model: PSPNet) -> dict[str, nn.Module]:
    """Batch norms whose statistics are of all processes, on the same tensors; the network's own, by name."""
    own: dict[str, nn.Module] = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    convert_sync_batchnorm(model)
    return own


def _freeze(model: PSPNet, what: str) -> None:
    if what == "encoder":
        model.freeze_encoder()
    elif what == "norms":
        model.freeze_norms()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that a step is finished and saved before the run ends.

    A handler of the caller's is called too.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: Any) -> None:
        event.set()
        handler = before[number]
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, frame)

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
