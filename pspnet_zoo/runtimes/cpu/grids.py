"""Keeps blocks with dilated depthwise convolutions on interleaved grids, where they are undilated, for less time on a CPU.

A convolution with dilation r is r x r undilated ones, each on every r-th row and column, which oneDNN computes several times faster
for depthwise kernels of 5x5. Going there and back for each layer would cost most of the gain. But 1x1 convolutions, norms,
activations and sums of equal shapes are the same in any order of the positions, so whole blocks stay on the grids.
"""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def to_grids(x: Tensor, rate: int) -> Tensor:
    """Split (N, C, H, W) into every rate-th row and column: (N * rate**2, C, H / rate, W / rate), rounded up with zeros."""
    if rate == 1:
        return x.contiguous(memory_format=torch.channels_last)
    height, width = x.shape[-2:]
    x = padded(x, height + -height % rate, width + -width % rate)
    rows = x.permute(0, 2, 3, 1).unflatten(2, (-1, rate)).unflatten(1, (-1, rate))  # (N, H / rate, rate, W / rate, rate, C)
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def from_grids(grids: Tensor, rate: int, height: int, width: int) -> Tensor:
    """Undo `to_grids`, cropped to (N, C, height, width)."""
    if rate == 1:
        return grids
    rows = grids.permute(0, 2, 3, 1).unflatten(0, (-1, rate, rate))  # (N, rate, rate, H / rate, W / rate, C)
    x = rows.permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return x[..., :height, :width].contiguous(memory_format=torch.channels_last)


def padded(x: Tensor, height: int, width: int) -> Tensor:
    """Pad with zeros on the right and below."""
    missing = (0, width - x.shape[-1], 0, height - x.shape[-2])
    return F.pad(x, missing) if any(missing) else x


def use_grids(network: nn.Module) -> int:
    """Move the wide dilated depthwise convolutions of a network to grids, and return their number.

    The block around a convolution, a module of an `nn.Sequential`, goes with it where its calls allow that.

    Args:
        network: In evaluation mode; it is changed.
    """
    found = [(name, int(layer.dilation[0])) for name, layer in network.named_modules() if _gains(layer)]
    moved: set[str] = set()
    for name, rate in found:
        block = _block_around(network, name)
        if block not in moved:
            place = block if _stays_the_same(network.get_submodule(block), rate) else name
            network.set_submodule(place, OnGrids(network.get_submodule(place), rate))
            moved.add(place)
    return len(found)


class OnGrids(nn.Module):
    """A block that runs on grids, see `to_grids`, with its convolutions of that dilation undilated.

    Args:
        block: Its output has the size of its input.
        rate: The dilation, in positions of the feature map.
    """

    def __init__(self, block: nn.Module, rate: int) -> None:
        super().__init__()
        self.block, self.rate = block, rate
        self._size = (0, 0)
        for layer in block.modules():
            if _keeps_size(layer, rate):
                layer.padding = (layer.kernel_size[0] // 2, layer.kernel_size[1] // 2)
                layer.dilation = (1, 1)
                layer.register_forward_pre_hook(self._clear)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        self._size = height, width = x.shape[-2], x.shape[-1]
        return from_grids(self.block(to_grids(x, self.rate)), self.rate, height, width)

    def _clear(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        """Set positions outside the feature map, which rounding up has added, to the zeros that a padding is."""
        rows, columns = (side % self.rate for side in self._size)
        grids = inputs[0].unflatten(0, (-1, self.rate, self.rate))  # (N, rate, rate, C, H / rate, W / rate)
        if rows:
            grids[:, rows:, :, :, -1] = 0
        if columns:
            grids[:, :, columns:, :, :, -1] = 0


def _gains(layer: Any) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a depthwise convolution that is faster on grids; with 3x3 kernels it is not."""
    return (
        type(layer) is nn.Conv2d
        and layer.groups == layer.in_channels == layer.out_channels
        and min(layer.kernel_size) >= 5
        and layer.dilation[0] > 1
        and _keeps_size(layer, layer.dilation[0])
        and not has_hooks(layer)
    )


def _keeps_size(layer: Any, rate: int) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a convolution with that dilation and output positions under its input positions."""
    return (
        type(layer) is nn.Conv2d
        and layer.padding_mode == "zeros"
        and tuple(layer.stride) == (1, 1)
        and tuple(layer.dilation) == (rate, rate)
        and all(k % 2 and k > 1 and p == rate * (k // 2) for k, p in zip(layer.kernel_size, layer.padding, strict=True))
    )


def _block_around(network: nn.Module, name: str) -> str:
    """Name of the innermost module around a layer, or of the layer itself, that an `nn.Sequential` calls."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if isinstance(network.get_submodule(".".join(parts[: length - 1])), nn.Sequential):
            return ".".join(parts[:length])
    return name


def _stays_the_same(block: nn.Module, rate: int) -> bool:
    """Whether a block computes the same for each position, wherever it lies, but for convolutions of that dilation."""
    convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    if not all(_keeps_size(layer, rate) or _is_pointwise(layer) for layer in convolutions):
        return False
    if any(has_hooks(module) for module in block.modules()):
        return False
    x = torch.zeros(1, convolutions[0].in_channels, rate, rate)
    with torch.no_grad(), _Watch([layer.weight for layer in convolutions]) as watch:
        try:
            block(x)
        except RuntimeError:  # the convolution that was made first is not the one that is called first
            return False
    return watch.same


class _Watch(TorchFunctionMode):
    """Notes whether all calls treat all positions of feature maps alike, but for convolutions with the weights given."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.same = True
        self._weights = weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.same = self.same and self._is_same(func, args, kwargs)
        return func(*args, **kwargs)

    def _is_same(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if func is torch.conv2d:
            return any(args[1] is weight for weight in self._weights)
        if func is F.batch_norm:
            return not kwargs.get("training", args[5] if len(args) > 5 else False)
        if func in _SUMS:
            return len({value.shape for value in args if isinstance(value, Tensor)}) == 1
        return func in _POSITIONWISE


_POSITIONWISE = {
    F.relu,
    F.relu6,
    F.hardtanh,
    F.hardswish,
    F.silu,
    F.gelu,
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.dim,
    torch._assert,
}
_SUMS = {Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__}


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return type(layer) is nn.Conv2d and layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, other than those of `OnGrids`."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(getattr(hook, "__func__", None) is not OnGrids._clear for hook in hooks)
