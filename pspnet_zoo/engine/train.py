"""Training: SGD with a polynomial schedule, interruptible at any moment and resumed exactly.

Nothing random is carried along: the order of pictures, their augmentation and the dropout of a step follow from the seed and the
number of the step. Weights, momentum and that number are thus the whole state of a run.
"""

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ..data.dataset import SegmentationDataset
from ..data.labels import IGNORE
from ..data.transforms import training_transform
from ..models import PSPNet
from ..weights.files import WeightsError, read_state, write_state
from .recipes import Recipe

CHECKPOINT = "checkpoint.safetensors"

Progress = Callable[[int, float, float], None]
"""Called after each step with the number of steps done, the loss and the encoder's learning rate."""


def train(
    model: PSPNet,
    dataset: SegmentationDataset,
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
) -> int:
    """Train a network in place. SIGTERM and SIGINT end the run after the step at hand.

    Args:
        model: On the device to train on; its weights are the start, unless a checkpoint is resumed.
        dataset: What to train on.
        recipe: The run's numbers.
        folder: Takes `checkpoint.safetensors`, replaced every `recipe.checkpoint_every` steps, at a signal, and at the end.
        resume: Continue from the folder's checkpoint, with the weights that an uninterrupted run would have had.
        workers: Processes that read pictures; 0 reads in this one. The result does not depend on it.
        progress: See `Progress`.

    Returns:
        The steps done: `recipe.iterations`, or fewer if a signal stopped the run.

    Raises:
        WeightsError: If there is no checkpoint to resume, or it is damaged or of another run.
        FloatingPointError: If the loss is not finite; the last checkpoint stays.
    """
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)  # depthwise dilated convolutions train several times faster so on CPUs
    optimizer = torch.optim.SGD(
        model.param_groups(recipe.lr, recipe.head_factor), momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    start = _load_checkpoint(folder / CHECKPOINT, model, optimizer, recipe) if resume else 0

    class_weights = None
    if recipe.class_weight_power:
        class_weights = (class_shares(dataset).clamp(min=1e-6) ** -recipe.class_weight_power).to(device)
    positions = range(start * recipe.batch_size, recipe.iterations * recipe.batch_size)
    stream = _Stream(dataset, recipe, [m * 255 / model.preprocess.range for m in model.preprocess.mean])
    loader = DataLoader(stream, recipe.batch_size, sampler=positions, num_workers=workers, worker_init_fn=_ignore_stop_signals)
    model.train()
    step = start
    with _stop_signals() as stopped:
        for images, masks in loader:
            lr_factor = (1 - step / recipe.iterations) ** recipe.power
            for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = base_lr * lr_factor
            torch.manual_seed(_seed(recipe.seed, step))  # dropout
            x = model.preprocess(images.to(device)).contiguous(memory_format=torch.channels_last)
            loss = segmentation_loss(model, x, masks.to(device).long(), recipe.aux_weight, class_weights)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"The loss is {loss.item()} at step {step}; lower the learning rate ({recipe.lr})")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if progress:
                progress(step, loss.item(), base_lrs[0] * lr_factor)
            if step % recipe.checkpoint_every == 0 or step == recipe.iterations or stopped.is_set():
                _save_checkpoint(folder / CHECKPOINT, model, optimizer, recipe, step)
            if stopped.is_set():
                break
    return step


def segmentation_loss(model: PSPNet, x: Tensor, masks: Tensor, aux_weight: float, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy over the pixels that count, plus the auxiliary head's share where there is one.

    Args:
        model: Gives logits of the masks' size.
        x: (N, 3, H, W), normalised.
        masks: (N, H, W) int64 ids, 255 where ignored.
        aux_weight: Of the auxiliary loss; the paper has 0.4.
        class_weights: (classes,) float; None for all alike.

    Returns:
        A scalar; 0 if no pixel counts.
    """
    if model.auxiliary_head is None:
        return _cross_entropy(model(x), masks, class_weights)
    logits, aux_logits = model(x, return_aux=True)
    return _cross_entropy(logits, masks, class_weights) + aux_weight * _cross_entropy(aux_logits, masks, class_weights)


def class_shares(dataset: SegmentationDataset) -> Tensor:
    """(classes,) float: the fraction of the pixels that count which each class has."""
    counts = torch.zeros(len(dataset.labels), dtype=torch.int64)
    for index in range(len(dataset)):
        counts += torch.bincount(dataset[index][1].flatten(), minlength=IGNORE + 1)[: len(counts)]
    return counts / counts.sum()


def _cross_entropy(logits: Tensor, masks: Tensor, class_weights: Tensor | None) -> Tensor:
    """Weighted mean over the pixels that count; torch's own mean is NaN where none does."""
    total = F.cross_entropy(logits, masks, weight=class_weights, ignore_index=IGNORE, reduction="sum")
    counted = masks[masks != IGNORE]
    mass = class_weights[counted].sum() if class_weights is not None else torch.tensor(counted.numel())
    return total / mass.clamp(min=1e-6)


class _Stream(Dataset):
    """Augmented pictures by their position in the whole run: each epoch is a permutation of its own."""

    def __init__(self, dataset: SegmentationDataset, recipe: Recipe, mean: list[float]) -> None:
        self.dataset = dataset
        self.seed = recipe.seed
        self.transform = training_transform(crop=recipe.crop, scale=recipe.scale, mean=mean)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(position, len(self.dataset))
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(_seed(self.seed, -1 - epoch)))
        pair = self.dataset[int(order[place])]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(self.seed, position))
            image, mask = self.transform(*pair)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


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


def _save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.SGD, recipe: Recipe, step: int) -> None:
    momentum = {
        f"momentum.{name}": optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters() if p in optimizer.state
    }
    weights = {f"model.{name}": t for name, t in model.state_dict().items()}
    write_state(path, {**weights, **momentum}, {"step": step, "recipe": asdict(recipe)})


def _load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.SGD, recipe: Recipe) -> int:
    tensors, state = read_state(path)
    if state.get("recipe") != json.loads(json.dumps(asdict(recipe))):
        raise WeightsError(f"'{path}' is of a run with another recipe, {state.get('recipe')}; resume with the same numbers")
    try:
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise WeightsError(f"'{path}' is of another network: {error}") from None
    for name, parameter in model.named_parameters():
        if (buffer := tensors.get(f"momentum.{name}")) is not None:
            optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter.device).clone(memory_format=torch.preserve_format)
    return state["step"]
