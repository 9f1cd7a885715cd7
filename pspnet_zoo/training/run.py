"""The state of a run: what a checkpoint holds, and how a step changes it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor

from ..data.dataset import CheckedDataset, SegmentationDataset
from ..models.pspnet import PSPNet
from ..storage.files import WeightsError, read_state, write_state
from .optimizer import build_optimizer, build_schedule, optimizer_state, restore_optimizer
from .recipes import Recipe
from .stream import mask_class_fractions

_CHANGEABLE = ("iterations", "checkpoint_every", "evaluate_every", "patience")
"""Settings of a recipe that may change when a run is resumed. More iterations stretch the schedule of the learning rate."""


class Run:
    """The state of a run."""

    def __init__(self, model: PSPNet, recipe: Recipe, accelerator: Accelerator, path: Path, identity: Mapping[str, Any]) -> None:
        self.model, self.recipe, self.accelerator, self.path, self.identity = model, recipe, accelerator, path, identity
        self.step, self.best = 0, -1.0
        self.history: list[dict[str, Any]] = []
        """The evaluations so far: "step", "learning_rate", "train_loss", and the numbers and IoU by class of each."""
        self.evaluates = self.evaluates_start = False
        """Whether there is something to evaluate on, and whether the network is measured there before the first step."""
        self.last: dict[str, float | None] = {"learning_rate": None, "train_loss": None}
        """Those of the last step, for its evaluation."""
        self.class_weights: Tensor | None = None
        self.average = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
        optimizer = build_optimizer(model, recipe)
        self.schedule = build_schedule(optimizer, recipe)
        self.network, self.optimizer = accelerator.prepare(model, optimizer)

    @property
    def result(self) -> PSPNet:
        """The network that the run is for: the running average where there is one."""
        return self.average.module if self.average else self.model

    def weigh_classes(self, dataset: SegmentationDataset) -> None:
        """Set the classes' weights by their fractions of the pixels: counted once a run, in its first process."""
        if not self.recipe.class_weight_power or self.class_weights is not None or not dataset.masks:
            return
        class_fractions = torch.zeros(len(dataset.labels), device=self.accelerator.device)
        if self.accelerator.is_main_process:
            class_fractions.copy_(mask_class_fractions(dataset))
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast(class_fractions, 0)
        self.class_weights = class_fractions.clamp(min=1e-6) ** -self.recipe.class_weight_power

    def set_rate(self) -> float:
        """Set the learning rates of the next step, and return the highest in the encoder, or the heads' where it is frozen."""
        self.schedule.step_update(self.step)
        return self.optimizer.param_groups[0]["lr"]

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the processes."""
        return cast(Tensor, self.accelerator.reduce(tensor, "mean"))

    def take_step(self) -> None:
        if self.recipe.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
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
        """Write the checkpoint whole or not at all."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state, optimizer = optimizer_state(self.model, self.optimizer.optimizer)
        tensors |= {f"optimizer.{name}": tensor for name, tensor in state.items()}
        if self.average:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.module.state_dict().items()}
        if self.class_weights is not None:
            tensors["class_weights"] = self.class_weights
        scaler = self.accelerator.scaler
        numbers = {"step": self.step, "best": self.best, "scaler": scaler.state_dict() if scaler else None}
        numbers |= {"optimizer": optimizer, "history": self.history, "last": self.last}
        write_state(self.path, tensors, {**numbers, "recipe": asdict(self.recipe), **self.identity})

    def load(self) -> None:
        """Continue from the checkpoint.

        Raises:
            WeightsError: If there is none, or it is damaged or of another run; the message names what differs.
        """
        tensors, state = read_state(self.path)
        self._check(state)
        try:
            self.model.load_state_dict(_part(tensors, "model."))
            if self.average:
                self.average.module.load_state_dict(_part(tensors, "average."))
        except RuntimeError as error:
            raise WeightsError(f"'{self.path}' is of another network: {error}") from None
        buffers = {f"momentum_buffer.{name}": tensor for name, tensor in _part(tensors, "momentum.").items()}  # before 0.1.0
        buffers |= _part(tensors, "optimizer.")
        restore_optimizer(self.model, self.optimizer.optimizer, buffers, state.get("optimizer", {}))
        if "class_weights" in tensors:
            self.class_weights = tensors["class_weights"].to(self.accelerator.device)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.history = state["step"], state["best"], state.get("history", [])
        self.last |= state.get("last", {})
        if "validation" in state:  # kept by a run that does not evaluate for a while
            self.identity = {**self.identity, "validation": state["validation"]}

    def _check(self, state: Mapping[str, Any]) -> None:
        """Refuse the checkpoint of another run; one that was written before 0.1.0 tells less of itself."""
        before, now = ({"recipe": {}, **each} for each in (state, json.loads(json.dumps(self.identity))))
        defaults = {field.name: field.default for field in fields(Recipe)}  # what checkpoints from before a setting mean
        before["recipe"] = {**json.loads(json.dumps({k: v for k, v in defaults.items() if v is not MISSING})), **before["recipe"]}
        now["recipe"] = json.loads(json.dumps(asdict(self.recipe)))
        differing = [
            f"{k} was {before['recipe'].get(k)} and is {v}"
            for k, v in now["recipe"].items()
            if k not in _CHANGEABLE and before["recipe"].get(k) != v
        ]
        if _same_start(before.get("start"), now["start"]):
            before["start"] = now["start"]
        for part in ("network", "preprocess", "classes", "dataset", "mask_ids", "validation", "start", "start_sha256", "teacher"):
            if part in before and part in now and before[part] != now[part]:
                differing += _difference(part, before[part], now[part])
        if differing:
            raise WeightsError(
                f"'{self.path}' is of another run: {'; '.join(differing)}. Resume with the same settings; only "
                f"{', '.join(_CHANGEABLE)} may differ"
            )
        if self.recipe.iterations < state["step"]:
            raise WeightsError(
                f"'{self.path}' is of step {state['step']}, after the last one of {self.recipe.iterations} iterations"
            )

    @property
    def trained(self) -> list[dict[str, Any]]:
        """The evaluations but for the start's, of step 0."""
        return [entry for entry in self.history if entry["step"]]

    @property
    def best_step(self) -> int:
        """The step with the highest mIoU after the start; 0 if no evaluation has one."""
        return best_evaluation(self.history).get("step", 0)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left: the last step is done and evaluated, or the mIoU has not become better for long enough."""
        best = self.best_step
        since = sum(entry["step"] > best for entry in self.trained)
        is_stale = bool(self.recipe.patience) and since >= self.recipe.patience
        return not self.owes_evaluation and (is_stale or self.step >= self.recipe.iterations)

    @property
    def owes_evaluation(self) -> bool:
        """Whether an evaluation is due after the steps done, and not in the history."""
        every, is_last = self.recipe.evaluate_every, self.step == self.recipe.iterations
        if not (every and self.evaluates) or self.step in [entry["step"] for entry in self.history]:
            return False
        return self.evaluates_start if self.step == 0 else self.step % every == 0 or is_last

    def finish(self) -> None:
        """Leave the result in the caller's network, as it came: without wrappers."""
        self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        if self.average and self.is_complete:
            self.model.load_state_dict(self.average.module.state_dict())


def best_evaluation(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first of the evaluations after the start with the highest mIoU; empty if none has one."""
    known = [entry for entry in history if entry["step"] and entry["miou"] is not None]
    return max(known, key=lambda entry: entry["miou"], default={})


def identity(
    model: PSPNet, dataset: CheckedDataset, validation: CheckedDataset | None = None, teacher: str | None = None
) -> dict[str, Any]:
    """The facts that must be the same when a run is resumed, beside its recipe, as JSON.

    A dataset is known by the number and names of its files, so that a folder may move and a damaged file be replaced.
    """
    return {
        "network": model.config,
        "preprocess": asdict(model.preprocess),
        "classes": dataset.labels.names,
        "dataset": _files(dataset),
        **({"validation": _files(validation)} if validation else {}),  # a run may begin or stop to evaluate
        "mask_ids": sorted(dataset.ids.items()) if dataset.ids else None,
        "start": (model.provenance or {}).get("start"),
        "start_sha256": (model.provenance or {}).get("start_sha256"),
        "teacher": teacher,
    }


def _files(dataset: SegmentationDataset) -> str:
    names = "\n".join(path.name for path in (*dataset.images, *dataset.masks))
    return f"{len(dataset)} images (names {hashlib.sha256(names.encode(errors='surrogateescape')).hexdigest()[:12]})"


def _same_start(before: Any, now: Any) -> bool:
    """Whether the start of a checkpoint is that of now; before 0.1.0 it was the whole path of a folder or file."""
    if not isinstance(before, str) or not isinstance(now, str):
        return before == now
    kind = "encoder weights "
    if before == now or before.startswith(kind) != now.startswith(kind):
        return before == now
    path = before.removeprefix(kind).replace("\\", "/").rstrip("/")
    return path.rpartition("/")[2] == now.removeprefix(kind)


def _difference(part: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [f"{key} was {before.get(key)} and is {now[key]}" for key in now if before.get(key) != now[key]]
    if part == "teacher":
        return ["the teachers, their protocol or mapping were others"]
    if part == "mask_ids":
        return ["the ids in masks meant other classes"]
    if part == "start_sha256":
        return ["the weights that it started from were others"]
    return [f"{part} was {before} and is {now}"]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
