"""Depthwise convolutions that train fast in bfloat16 on CPUs.

oneDNN, which torch computes convolutions with on CPUs, has fast gradients for depthwise convolutions without dilation, and fast
gradients of the weights for 3x3 kernels only. The other cases are computed from these:

- A convolution with dilation r is r x r undilated ones, each on every r-th row and column, computed as one larger batch.
- The weights of a 5x5 kernel are four overlapping 3x3 kernels on images that are shifted by up to two pixels.

In bfloat16 a training step of `pspnet_lite0` at stride 8 takes 0.41 of the time. In float32, whose own kernels are faster, it takes
longer with the default allocator, because the parts are copies (`python -m benchmarks.depthwise`: 2 cores of an Intel Xeon
with amx_bf16, torch 2.14.1).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .grids import from_grids, padded, to_grids


class FastDepthwise(TorchFunctionMode):
    """Runs the depthwise convolutions that `depthwise_conv2d` supports through it while the mode is active.

    It is a mode and not a layer, so that timm's modules, their hooks and their state dicts stay as they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.conv2d and not kwargs and len(args) == 7:  # as nn.Conv2d calls it
            x, weight, bias, *geometry, groups = args
            stride, padding, dilation = ((n, n) if isinstance(n, int) else n for n in geometry)
            if _is_covered(x, weight, stride, padding, dilation, groups):
                out = depthwise_conv2d(x, weight, padding[0] // dilation[0], dilation[0])
                return out if bias is None else out + bias[:, None, None]
        return func(*args, **(kwargs or {}))


def _is_covered(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    return (
        groups == x.shape[1] == weight.shape[0] > 1
        and weight.shape[2:] in ((3, 3), (5, 5))
        and tuple(stride) == (1, 1)
        and isinstance(padding, tuple)
        and padding[0] == padding[1]
        and dilation[0] == dilation[1]
        and padding[0] % dilation[0] == 0
    )


def depthwise_conv2d(x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    """Compute `F.conv2d(x, weight, padding=padding * dilation, dilation=dilation, groups=C)`, under autocast too.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k, k), k of 3 or 5.
        padding: Zeros on each side, in multiples of `dilation`.
        dilation: Distance of the taps, in pixels.

    Returns:
        (N, C, H', W') with H' = H + dilation * (2 * padding - k + 1), in channels_last.
    """
    if torch.is_autocast_enabled(x.device.type):
        x, weight = (t.to(torch.get_autocast_dtype(x.device.type)) for t in (x, weight))
    return _Depthwise.apply(x, weight, padding, dilation)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
        ctx.size = x.shape[-2:]
        ctx.padding, ctx.dilation = padding, dilation
        grids = to_grids(x, dilation)
        ctx.save_for_backward(grids, weight)
        height, width = (side + dilation * (2 * padding - weight.shape[-1] + 1) for side in ctx.size)
        return from_grids(F.conv2d(grids, weight, padding=padding, groups=x.shape[1]), dilation, height, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grids, weight = ctx.saved_tensors
        grad = to_grids(grads[0], ctx.dilation)
        # the grids may be larger than the gradient's, by a crop or rounding up
        height, width = (side + 2 * ctx.padding - weight.shape[-1] + 1 for side in grids.shape[-2:])
        grad = padded(grad, height, width)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_grids = _gradients(grad, grids, weight, ctx.padding, [True, False, False])[0]
            grad_x = from_grids(grad_grids, ctx.dilation, *ctx.size)
        if ctx.needs_input_grad[1]:
            grad_weight = _grad_weight(grad, grids, weight, ctx.padding)
        return grad_x, grad_weight, None, None


def _grad_weight(grad: Tensor, x: Tensor, weight: Tensor, padding: int) -> Tensor:
    if weight.shape[-1] == 3:
        return _gradients(grad, x, weight, padding, [False, True, False])[1]
    height, width = grad.shape[-2:]
    around = F.pad(x, (padding,) * 4)
    part = weight[..., :3, :3]
    out = torch.empty_like(weight)
    for top in (0, 2):
        for left in (0, 2):
            moved = around[..., top : top + height + 2, left : left + width + 2].contiguous(memory_format=torch.channels_last)
            out[..., top : top + 3, left : left + 3] = _gradients(grad, moved, part, 0, [False, True, False])[1]
    return out


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, padding: int, wanted: list[bool]) -> Any:
    """Gradients of the input, the weights and the bias; None for those that are not wanted."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [padding, padding], [1, 1], False, [0, 0], x.shape[1], wanted
    )
