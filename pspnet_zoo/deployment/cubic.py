"""Cubic resizing with antialiasing as products with matrices, for graphs.

timm's vision transformers resize their position embeddings so. Runtimes have the operation with other coefficients than torch's,
1e-3 off in ONNX Runtime, or not at all.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_A = -0.5  # of Keys' kernel; with antialiasing torch takes this one, as Pillow does, and without it -0.75


class CubicByMatrices(TorchFunctionMode):
    """Answers such calls of `F.interpolate` while it is entered; every other call stays as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.interpolate and kwargs.get("mode") == "bicubic" and kwargs.get("antialias") and kwargs.get("size"):
            return resize_cubic(args[0], kwargs["size"])
        return func(*args, **kwargs)


def resize_cubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) to (N, C, *size), as `F.interpolate(x, size, mode="bicubic", antialias=True)`."""
    rows, columns = (cubic_matrix(old, new, x) for old, new in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.T


def cubic_matrix(cells: int, size: int, like: Tensor) -> Tensor:
    """(size, positions) weights along one axis; where it shrinks, the kernel widens with the distance of the results."""
    step = torch.full((1, 1), float(cells), device=like.device) / size
    centre = (torch.arange(size, device=like.device)[:, None] + 0.5) * step
    cell = torch.arange(cells, device=like.device) + 0.5
    t = ((cell - centre) / step.clamp(min=1)).abs()
    near = ((_A + 2) * t - (_A + 3)) * t**2 + 1
    far = _A * (((t - 5) * t + 8) * t - 4)
    weights = torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
    return (weights / weights.sum(dim=1, keepdim=True)).to(like.dtype)
