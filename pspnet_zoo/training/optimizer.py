"""Optimizer and learning-rate schedule of a recipe, both timm's."""

from collections.abc import Iterator
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from ..models.pspnet import PSPNet
from .recipes import Recipe


def build_optimizer(model: PSPNet, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of the parameters that learn.

    The decoder and the heads, which start untrained, learn at `head_factor` times the encoder's rate; with `layer_decay` below 1,
    each layer of the encoder learns at that fraction of the rate of the next.

    Raises:
        ValueError: If timm has no such optimizer, or it needs second derivatives.
    """
    if recipe.optimizer not in list_optimizers():
        raise ValueError(
            f"optimizer is '{recipe.optimizer}'; it can be a name of timm.optim.list_optimizers(), such as momentum, sgd or adamw"
        )
    if get_optimizer_info(recipe.optimizer).second_order:
        raise ValueError(f"optimizer is '{recipe.optimizer}', which needs second derivatives; choose another, such as adamw")
    scales = _layer_scales(model, recipe.layer_decay) if recipe.layer_decay < 1 else {}
    spared = set() if recipe.decay_norms else set(_without_decay(model))
    groups: dict[tuple[bool, float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head, scale, decays = not name.startswith("encoder."), scales.get(name, 1.0), name not in spared
        options = {"lr": recipe.lr * recipe.head_factor if is_head else recipe.lr, "lr_scale": scale}
        group = groups.setdefault((is_head, scale, decays), {"params": [], **options, **({} if decays else {"weight_decay": 0.0})})
        group["params"].append(parameter)
    ordered = [groups[key] for key in sorted(groups, key=lambda key: (key[0], -key[1], not key[2]))]
    return create_optimizer_v2(
        ordered, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
    )


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> Scheduler:
    """The schedule; its `step_update(step)` sets the learning rates of the step with that number, from 0.

    During `warmup` steps the rate is the fraction step / warmup of the base rate; after them it is the schedule's at this step.
    """
    common: dict[str, Any] = {
        "t_initial": recipe.iterations,
        "lr_min": recipe.min_lr,
        "warmup_t": recipe.warmup,
        "t_in_epochs": False,
    }
    if recipe.schedule == "cosine":
        return CosineLRScheduler(optimizer, **common)
    return PolyLRScheduler(optimizer, power=0.0 if recipe.schedule == "constant" else recipe.power, **common)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer as tensors by "KEY.PARAMETER" and as JSON.

    Raises:
        ValueError: If it is neither.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{key}.{name}"] = value
            elif value is None or isinstance(value, int | float | bool):
                numbers[f"{key}.{name}"] = value
            else:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps a {type(value).__name__} ({key}), which a checkpoint cannot hold; choose "
                    "another optimizer"
                )
    counters = [group.get("step") for group in optimizer.param_groups]  # some of timm's optimizers count in the group
    steps = [float(step) if isinstance(step, Tensor) else step for step in counters]
    return tensors, {"state": numbers, "steps": steps, "steps_are_tensors": any(isinstance(step, Tensor) for step in counters)}


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    """Undo `optimizer_state`."""
    parameters = dict(model.named_parameters())
    for key, value in {**numbers.get("state", {}), **tensors}.items():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        if isinstance(value, Tensor):  # a count of steps stays on the CPU
            value = value.to("cpu" if kind == "step" else parameter.device).clone(memory_format=torch.preserve_format)
        optimizer.state[parameter][kind] = value
    for group, step in zip(optimizer.param_groups, numbers.get("steps", []), strict=False):
        if step is not None:
            group["step"] = torch.tensor(step) if numbers["steps_are_tensors"] else step


def _layer_scales(model: PSPNet, decay: float) -> dict[str, float]:
    """The fraction of the base rate for each parameter of the encoder, by its depth; what follows the encoder is the last layer."""
    depth_of = model.group_matcher()
    depths = {name: depth_of(name) for name, _ in model.named_parameters() if name.startswith("encoder.")}
    last = max(depths.values()) + 1
    return {name: decay ** (last - depth) for name, depth in depths.items()}


def _without_decay(model: PSPNet) -> Iterator[str]:
    """Norms and biases, and what timm's model names, such as position embeddings."""
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1:
            yield name
    yield from model.no_weight_decay()
