"""Tools of the converters: renaming by rules, the order of the pyramid's bins, biases before norms, missing counters."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...storage.files import WeightsError

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Regular expressions of upstream module paths, whole, each with our path as `re.sub` takes it. The first that matches counts."""

ENCODER = "encoder.model"
BRANCHES = "decoder.pyramid.branches"
FUSE = "decoder.pyramid.fuse"
CLASSIFIER = "segmentation_head.0"
AUXILIARY = "auxiliary_head.0"


@dataclass(frozen=True)
class Converter:
    """Conversion of the state dicts of a project to ours."""

    signature_key: str
    """A key that only this project's have."""
    rules: Rules
    dropped: str = "(?!)"
    """Regular expression of whole keys that are left out; of none."""
    leaves: Mapping[str, str] = field(default_factory=dict)
    """Last parts of keys that have other names here."""
    after: tuple[Callable[[Mapping[str, Tensor]], dict[str, Tensor]], ...] = ()
    """Changes of the renamed tensors, in this order."""

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict under our names, in our order of bins, without biases before norms.

        Raises:
            WeightsError: If a key is none of the network's.
        """
        kept = {key: tensor for key, tensor in state.items() if not re.fullmatch(self.dropped, key)}
        ours = rename(kept, self.rules, self.leaves)
        for step in self.after:
            ours = step(ours)
        return ours


def rename(state: Mapping[str, Tensor], rules: Rules, leaves: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The same tensors under our names; `leaves` are other names for the last parts of keys.

    Raises:
        WeightsError: If no rule fits a key, or two keys would get the same name.
    """
    compiled = [(re.compile(pattern), ours) for pattern, ours in rules]
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        match = next(((m, ours) for pattern, ours in compiled if (m := pattern.fullmatch(module))), None)
        if match is None:
            raise WeightsError(f"'{key}' is no key of a PSPNet of this project")
        found, ours = match
        name = f"{ours(found) if callable(ours) else found.expand(ours)}.{(leaves or {}).get(leaf, leaf)}"
        if name in renamed:
            raise WeightsError(f"'{key}' has the meaning of another key too, '{name}' in our names")
        renamed[name] = tensor
    return renamed


def reverse_bins(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours concatenates x, then the bins 1, 2, 3, 6; for a fusing convolution that was trained on x, 6, 3, 2, 1."""
    weight, branch = state.get(f"{FUSE}.0.weight"), state.get(f"{BRANCHES}.0.0.weight")
    if weight is None or branch is None or weight.ndim != 4 or weight.shape[1] <= 4 * branch.shape[0]:
        return dict(state)  # whoever loads the state finds what is missing or misshapen, and says so
    width = branch.shape[0]
    x, *bins = weight.split([weight.shape[1] - 4 * width, *[width] * 4], dim=1)
    return {**state, f"{FUSE}.0.weight": torch.cat([x, *reversed(bins)], dim=1)}


def fold_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours has no bias before a norm: norm(y + bias) is the norm of y with the mean less the bias."""
    folded = dict(state)
    for key, bias in state.items():
        mean = re.sub(r"\.0\.bias$", ".1.running_mean", key)
        if mean != key and mean in state and state[mean].shape == bias.shape:
            folded[mean] = state[mean] - bias
            del folded[key]
    return folded


def complete(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In float32, with the batch counters that torch before 0.4.1 and other frameworks do not have."""
    full = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    for key in state:
        module, _, leaf = key.rpartition(".")
        if leaf == "running_mean":
            full.setdefault(f"{module}.num_batches_tracked", torch.tensor(0))
    return full
