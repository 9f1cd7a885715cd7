"""A range test of learning rates.

Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks" (arXiv 1506.01186), section 3.3.
"""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ...data.dataset import as_segmentation_dataset
from ...inference.scores import labels_of
from ...models.pspnet import PSPNet
from ...storage.files import write_atomically
from ..recipes import Recipe
from ..run import Run
from ..stream import Stream, batches, read_ahead
from ..train import check_multilabel, check_network, frozen, open_accelerator
from ..trainer import Stopped, Trainer
from .lora import lora_added
from .step import OptimizerStep

RATES = "find_lr.csv"
STEPS = 100
_SPAN = 100.0  # from a hundredth to a hundred times the recipe's rate
_DIVERGED = 4.0  # times the lowest loss


def find_learning_rate(
    model: PSPNet,
    dataset: Any,
    recipe: Recipe,
    folder: Path,
    *,
    cpu: bool = False,
    progress: Callable[[int, float, float], None] | None = None,
    trainer: Trainer | None = None,
) -> float:
    """Train with a rate that rises from step to step, and return a tenth of the rate at which the smoothed loss was lowest.

    The network is changed and of no use after. `find_lr.csv` in the folder holds the rates and losses.

    Args:
        model: The network at its start.
        dataset: What to train on.
        recipe: Its own rate is the middle of those that are tried: from a hundredth of it to a hundred times.
        folder: Takes the table.
        cpu: Train on the CPU though there is a GPU.
        progress: Called after each step with the number of steps, the loss and the rate.
        trainer: Its signals end the trial.

    Raises:
        Stopped: If a signal ended the trial.
        ValueError: If network and recipe do not fit each other.
    """
    recipe = replace(recipe, iterations=STEPS)
    accelerator = open_accelerator(recipe, cpu)
    check_network(model, recipe, accelerator, evaluates=False)
    if model.multilabel:
        check_multilabel(recipe, has_teacher=False)
    with lora_added(model, recipe.lora_rank, recipe.lora_alpha, recipe.seed), frozen(model, recipe.freeze):
        tried = _trial(model, dataset, recipe, accelerator, folder, progress, trainer)
    if accelerator.is_main_process:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("learning_rate", "loss", "smoothed_loss"), *tried])
        write_atomically(folder / RATES, text.getvalue().encode())
    return min(tried, key=lambda each: each[2])[0] / 10


def _trial(
    model: PSPNet,
    dataset: Any,
    recipe: Recipe,
    accelerator: Accelerator,
    folder: Path,
    progress: Callable[[int, float, float], None] | None,
    trainer: Trainer | None,
) -> list[tuple[float, float, float]]:
    """The rate, the loss and the smoothed loss of each step."""
    model.to(accelerator.device).to(memory_format=torch.channels_last).train()
    run = Run(model, recipe, accelerator, folder / RATES, {})
    images = as_segmentation_dataset(dataset, labels_of(model), channels=model.config["in_channels"])
    run.weigh_classes(images)
    stream = Stream(images, None, recipe, model.preprocess)
    step, groups = OptimizerStep(run, stream, False), run.optimizer.param_groups
    bases = [group["initial_lr"] * group["lr_scale"] / recipe.lr for group in groups]  # "lr" is 0 where a warm-up begins
    tried: list[tuple[float, float, float]] = []
    average = 0.0
    order = batches(recipe, 0, accelerator.process_index, accelerator.num_processes)
    with read_ahead(stream, order, 0) as micro_batches:
        for number in range(STEPS):
            rate = recipe.lr / _SPAN * _SPAN ** (2 * number / (STEPS - 1))
            for group, base in zip(groups, bases, strict=True):
                group["lr"] = base * rate
            try:
                loss = run.mean(step([next(micro_batches) for _ in range(recipe.accumulation)])).item()
            except FloatingPointError:
                if not tried:  # no rate is to blame
                    raise
                break
            average = 0.9 * average + 0.1 * loss
            tried.append((rate, loss, average / (1 - 0.9 ** (number + 1))))
            if progress and accelerator.is_main_process:
                progress(number + 1, loss, rate)
            if trainer and trainer.signal is not None:
                raise Stopped(trainer.signal)
            if not math.isfinite(loss) or tried[-1][2] > _DIVERGED * min(smooth for _, _, smooth in tried):
                break
    return tried
