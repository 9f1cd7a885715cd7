"""Training on one or many processes, interruptible at any moment and resumed exactly.

Nothing random is carried along: the order of pictures, their augmentation and the dropout of a step follow from the seed and the
number of the step. Weights, momentum, the running average and that number are thus the whole state of a run.
"""

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from ..data.dataset import SegmentationDataset
from ..data.labels import IGNORE
from ..evaluation.evaluate import Evaluation, class_ids, evaluate
from ..inference import draw
from ..inference.protocols import PROTOCOLS
from ..meta import Preprocess
from ..models import PSPNet
from ..storage.files import WeightsError, read_state, write_atomically, write_state
from .depthwise import FastDepthwise
from .distill import TeacherScores, distillation_loss, places, sample, taught
from .loss import pixel_mass, segmentation_loss
from .recipes import Recipe
from .transforms import training_transform

CHECKPOINT = "checkpoint.safetensors"
RECIPE = "recipe.json"
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
        teacher: Scores of the pictures of `dataset`, beside or in place of their masks; those that are missing are computed first.
        validation: Evaluated every `recipe.evaluate_every` steps and at the end; None for never.
        resume: Continue from the folder's checkpoint, with the weights that an uninterrupted run would have had.
        workers: Processes that read pictures, for each that trains; 0 reads in this one. The result does not depend on it.
        cpu: Train on the CPU though there is a GPU.
        compile: Whether to run through torch.compile: a slow start, then faster steps.
        progress: See `Progress`; called in the main process only.

    Returns:
        The steps done: `recipe.iterations`, or fewer if a signal stopped the run.

    Raises:
        WeightsError: If there is no checkpoint to resume, or it is damaged or of another run.
        ValueError: If the batch cannot be shared evenly, or the network has an image-level head.
        FloatingPointError: If the loss is not finite; it names the pictures, and the last checkpoint stays.
    """
    accelerator = Accelerator(cpu=cpu, mixed_precision=recipe.precision)
    parts = accelerator.num_processes * recipe.accumulation
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size is {recipe.batch_size}; it must divide evenly among {accelerator.num_processes} processes "
            f"times {recipe.accumulation} accumulated parts"
        )
    if model.classification_head is not None:
        raise ValueError("Training here knows masks only; build the network without aux_params")
    has_aux = model.auxiliary_head is not None
    model.to(accelerator.device).to(memory_format=torch.channels_last)  # dilated depthwise: several times faster so on CPUs
    _freeze(model, recipe.freeze)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        convert_sync_batchnorm(model)
    run = _Run(model, recipe, accelerator, folder / CHECKPOINT, teacher.name if teacher else None)
    if resume:
        run.load()
    if teacher:
        teacher.prepare(process=accelerator.process_index, processes=accelerator.num_processes)
        accelerator.wait_for_everyone()
    class_weights = None
    if recipe.class_weight_power:
        class_weights = (class_shares(dataset).clamp(min=1e-6) ** -recipe.class_weight_power).to(accelerator.device)
    forward = torch.compile(run.network) if compile else run.network
    # float32 is no faster by parts, see benchmarks/depthwise.py
    by_parts = accelerator.device.type == "cpu" and recipe.precision == "bf16" and not compile
    convolutions = FastDepthwise() if by_parts else nullcontext()
    stream = _Stream(dataset, teacher, recipe, model.preprocess)
    order = _batches(recipe, run.step, accelerator.process_index, accelerator.num_processes)
    batches = iter(DataLoader(stream, batch_sampler=order, num_workers=workers, worker_init_fn=_ignore_stop_signals))
    model.train()
    with _stop_signals() as stopped, _Log(folder, recipe, run.step, accelerator.is_main_process) as log:
        while run.step < recipe.iterations:
            rate = run.set_rate()
            step_batches = [[tensor.to(accelerator.device) for tensor in next(batches)] for _ in range(recipe.accumulation)]
            masses = [_mass(masks, targets, class_weights, recipe) for _, masks, _, targets in step_batches]
            # every pixel of the step counts alike, whichever process or part it is in
            mean_mass = run.mean(torch.stack(masses).sum(dim=0)).clamp(min=1e-6)
            loss = torch.zeros((), device=accelerator.device)
            for part, ((images, masks, positions, targets), mass) in enumerate(zip(step_batches, masses, strict=True)):
                number = (run.step * recipe.accumulation + part) * accelerator.num_processes + accelerator.process_index
                torch.manual_seed(_seed(recipe.seed, number))  # dropout
                is_last = part + 1 == recipe.accumulation
                with nullcontext() if is_last else accelerator.no_sync(run.network):
                    x = model.preprocess(images).contiguous(memory_format=torch.channels_last)
                    with convolutions:
                        outputs = forward(x, return_aux=has_aux)
                    part_loss = segmentation_loss(
                        outputs,
                        masks,
                        aux_weight=recipe.aux_weight,
                        class_weights=class_weights,
                        ohem_threshold=recipe.ohem_threshold,
                        ohem_min_kept=recipe.ohem_min_kept,
                        dice_weight=recipe.dice_weight,
                    ) * (mass[0] / mean_mass[0])
                    if teacher:
                        distillation = distillation_loss(
                            outputs,
                            targets,
                            known=teacher.known,
                            temperature=recipe.teacher_temperature,
                            confidence=recipe.teacher_confidence,
                            aux_weight=recipe.aux_weight,
                        )
                        part_loss = part_loss + recipe.teacher_weight * distillation * (mass[1] / mean_mass[1])
                    if not math.isfinite(part_loss.item()):
                        raise FloatingPointError(
                            f"The loss is {part_loss.item()} at step {run.step}; lower the learning rate ({recipe.lr}), or look at "
                            + ", ".join(f"'{dataset.images[stream.index(int(p))]}'" for p in positions)
                        )
                    accelerator.backward(part_loss)
                loss += part_loss.detach()
            run.take_step()
            mean_loss = run.mean(loss).item()
            log.step(run.step, mean_loss, rate)
            if progress and accelerator.is_main_process:
                progress(run.step, mean_loss, rate)
            # one process's signal stops all, after the same step
            stop = bool(run.mean(loss.new_tensor(float(stopped.is_set()))))
            ends = run.step == recipe.iterations
            if validation is not None and recipe.evaluate_every and (run.step % recipe.evaluate_every == 0 or ends):
                run.share_statistics()
                scores = evaluate(run.result, validation)
                log.scores(run.step, scores, run.result, validation)
                if accelerator.is_main_process and scores.miou > run.best:
                    run.best = scores.miou
                    run.result.save_pretrained(folder / BEST)
            if run.step % recipe.checkpoint_every == 0 or stop or ends:
                run.share_statistics()
                if accelerator.is_main_process:
                    run.save()
            if stop:
                break
    return run.finish()


def _mass(masks: Tensor, targets: Tensor, class_weights: Tensor | None, recipe: Recipe) -> Tensor:
    """(2,) float: the pixels that count for the masks' loss, and for the teacher's."""
    return torch.stack([pixel_mass(masks, class_weights), taught(targets, recipe.teacher_confidence).sum().float()])


def class_shares(dataset: SegmentationDataset) -> Tensor:
    """(classes,) float: the fraction of the pixels that count which each class has."""
    counts = torch.zeros(len(dataset.labels), dtype=torch.int64)
    for index in range(len(dataset)):
        counts += torch.bincount(dataset[index][1].flatten(), minlength=IGNORE + 1)[: len(counts)]
    return counts / counts.sum()


class _Run:
    """The state of a run: what a checkpoint holds."""

    def __init__(self, model: PSPNet, recipe: Recipe, accelerator: Accelerator, path: Path, teacher: str | None) -> None:
        self.model, self.recipe, self.accelerator, self.path, self.teacher = model, recipe, accelerator, path, teacher
        self.step, self.best = 0, -1.0
        self.average = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
        groups = model.param_groups(recipe.lr, recipe.head_factor, decay_norms=recipe.decay_norms)
        self.base_rates = [group["lr"] for group in groups]
        sgd = torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        self.network, self.optimizer = accelerator.prepare(model, sgd)

    @property
    def result(self) -> PSPNet:
        """What the run is for: the running average where there is one."""
        return self.average.module if self.average else self.model

    def set_rate(self) -> float:
        """Set and give the learning rate of the step to come."""
        factor = (1 - self.step / self.recipe.iterations) ** self.recipe.power
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = self.recipe.min_lr + (base - self.recipe.min_lr) * factor
        return self.optimizer.param_groups[0]["lr"]

    def mean(self, tensor: Tensor) -> Tensor:
        """Over the processes."""
        return cast(Tensor, self.accelerator.reduce(tensor, "mean"))

    def take_step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.model)
        self.step += 1

    def share_statistics(self) -> None:
        """Give every process the batch norms' statistics of the first one; the weights are equal already."""
        if self.accelerator.num_processes > 1:
            for module in (self.model, *([self.average] if self.average else [])):
                for buffer in module.buffers():
                    torch.distributed.broadcast(buffer, 0)

    def save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state = self.optimizer.optimizer.state
        for name, parameter in self.model.named_parameters():
            if parameter in state:
                tensors[f"momentum.{name}"] = state[parameter]["momentum_buffer"]
        if self.average:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.module.state_dict().items()}
        scaler = self.accelerator.scaler
        numbers = {"step": self.step, "best": self.best, "scaler": scaler.state_dict() if scaler else None}
        write_state(self.path, tensors, {**numbers, "recipe": asdict(self.recipe), "teacher": self.teacher})

    def load(self) -> None:
        tensors, state = read_state(self.path)
        if state.get("recipe") != json.loads(json.dumps(asdict(self.recipe))):
            raise WeightsError(
                f"'{self.path}' is of a run with another recipe, {state.get('recipe')}; resume with the same numbers"
            )
        if state.get("teacher") != self.teacher:
            raise WeightsError(f"'{self.path}' is of a run with other teachers; resume with the same ones, protocol and mapping")
        try:
            self.model.load_state_dict(_part(tensors, "model."))
            if self.average:
                self.average.module.load_state_dict(_part(tensors, "average."))
        except RuntimeError as error:
            raise WeightsError(f"'{self.path}' is of another network: {error}") from None
        momentum = _part(tensors, "momentum.")
        for name, parameter in self.model.named_parameters():
            if name in momentum:
                buffer = momentum[name].to(parameter.device).clone(memory_format=torch.preserve_format)
                self.optimizer.optimizer.state[parameter]["momentum_buffer"] = buffer
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]

    def finish(self) -> int:
        """Leave the result in the caller's network, as it came: without wrappers."""
        self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        if self.average and self.step == self.recipe.iterations:
            self.model.load_state_dict(self.average.module.state_dict())
        return self.step


class _Log:
    """TensorBoard's files of a run, written by one process."""

    def __init__(self, folder: Path, recipe: Recipe, step: int, writes: bool) -> None:
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step) if writes else None
        if writes:
            write_atomically(folder / RECIPE, (json.dumps(asdict(recipe), indent=2) + "\n").encode())

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer:
            self.writer.close()

    def step(self, step: int, loss: float, rate: float) -> None:
        if self.writer:
            self.writer.add_scalar("loss/train", loss, step)
            self.writer.add_scalar("learning rate", rate, step)

    def scores(self, step: int, scores: Evaluation, model: PSPNet, dataset: SegmentationDataset) -> None:
        if self.writer:
            for name in ("miou", "pixel_accuracy", "loss"):
                self.writer.add_scalar(f"{name}/val", getattr(scores, name), step)
            for index in range(min(3, len(dataset))):
                name = f"{dataset.images[index].stem}: truth, prediction"
                self.writer.add_image(name, _example(model, dataset, index), step, dataformats="HWC")


def _example(model: PSPNet, dataset: SegmentationDataset, index: int) -> np.ndarray:
    """(H, 2 W, 3) uint8: the picture under the truth, and under what the network sees."""
    image, truth = dataset[index]
    seen = class_ids(model, image, PROTOCOLS["whole"])
    pixels = image.permute(1, 2, 0).numpy()
    return np.concatenate([draw.overlay(pixels, mask.numpy(), dataset.labels, 0.5) for mask in (truth, seen)], axis=1)


class _Stream(Dataset):
    """Augmented pictures by their position in the whole run: each epoch is a permutation of its own.

    Each is the picture, its mask, its position, and what the teacher says of it, of no class where there is no teacher.
    """

    def __init__(self, dataset: SegmentationDataset, teacher: TeacherScores | None, recipe: Recipe, preprocess: Preprocess) -> None:
        self.dataset, self.teacher = dataset, teacher
        self.seed = recipe.seed
        enlarge = preprocess.enlarge
        self.transform = training_transform(
            crop=recipe.crop,
            scale=(recipe.scale[0] * enlarge, recipe.scale[1] * enlarge),
            rotate=recipe.rotate,
            blur=recipe.blur,
            cat_max_ratio=recipe.cat_max_ratio,
            photometric=recipe.photometric,
            mean=[m * 255 / preprocess.range for m in preprocess.mean],
        )

    def index(self, position: int) -> int:
        """Of the picture at this position."""
        epoch, place = divmod(position, len(self.dataset))
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(_seed(self.seed, -1 - epoch)))
        return int(order[place])

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, int, Tensor]:
        index = self.index(position)
        pair = self.dataset[index]
        where = [places(*pair[0].shape[-2:])] if self.teacher else []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(self.seed, position))
            image, mask, *where = self.transform(*pair, *where)
        mask = mask.as_subclass(Tensor).long()
        target = sample(self.teacher[index], where[0]) if self.teacher else mask.new_zeros(0, *mask.shape)
        return image.as_subclass(Tensor), mask, position, target.half()


def _batches(recipe: Recipe, step: int, process: int, processes: int) -> Iterator[list[int]]:
    """The positions of this process's pictures, a list for each part of each step that is left."""
    size = recipe.batch_size // (processes * recipe.accumulation)
    for part in range(step * recipe.accumulation, recipe.iterations * recipe.accumulation):
        first = (part * processes + process) * size
        yield list(range(first, first + size))


def _freeze(model: PSPNet, what: str) -> None:
    if what == "encoder":
        model.freeze_encoder()
    elif what == "norms":
        model.freeze_norms()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _seed(seed: int, number: int) -> int:
    """A seed for one use, spread over 64 bits so that neighbours share nothing."""
    return (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that a step is finished and saved before the run ends."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_stop_signals(worker: int) -> None:
    """Workers get the signals of their group too; they end when the run ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
