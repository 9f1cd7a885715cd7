"""Dilated equivalents of strided operations: the same values at every `rate`-th position, and the values between them."""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from timm.layers import AvgPool2dSame, BlurPool2d, CondConv2d, Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from ..zoo.policies import Dilation

CONVOLUTIONS = (nn.Conv2d, CondConv2d)


@dataclass(frozen=True)
class Taps:
    """Positions that an operation on a sparse feature map reads; every pair is (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int] | None
    """Padding on either side; None is 'same' padding, which depends on the size of the input and is not symmetric."""
    rounds_up: bool
    """Whether a last window that is partly outside the input counts (`ceil_mode`)."""

    @classmethod
    def of(cls, operation: Any) -> "Taps":
        """The window of a convolution, pool or blur."""
        if isinstance(operation, BlurPool2d):
            kernel, padding = operation.filt_size, operation.padding[0]
        else:
            kernel, padding = operation.kernel_size, None if pads_as_same(operation) else operation.padding
        return cls(
            _pair(kernel),
            _pair(operation.stride),
            _pair(getattr(operation, "dilation", 1)),
            None if padding is None else _pair(padding),
            getattr(operation, "ceil_mode", False),
        )

    @property
    def reach(self) -> tuple[int, int]:
        """From the first to the last value of a window."""
        rows, columns = (d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True))
        return rows, columns

    @property
    def cuts_off_remainder(self) -> bool:
        """Whether it gives floor(n / stride) values for n."""
        if self.padding is None or self.rounds_up:
            return False
        return any(0 < r - 2 * p < s for r, p, s in zip(self.reach, self.padding, self.stride, strict=True))

    def dense_padding(self, rate: int, size: tuple[int, int]) -> list[int]:
        """(left, right, top, bottom) for the dilated equivalent on a feature map `rate` times denser, of size (rows, columns)."""
        sides = []
        for axis in (1, 0):
            stride, reach = self.stride[axis], self.reach[axis]
            if self.padding is None:
                sparse_size = (size[axis] + rate - 1) // rate
                before = _same_padding(sparse_size, self.kernel[axis], stride, self.dilation[axis]) // 2
                after = reach - before
            else:
                before = after = self.padding[axis]
                if self.rounds_up or 0 < reach - 2 * before < stride:
                    after = reach - before
            sides += [before * rate, after * rate]
        return sides


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """TensorFlow's padding of a side, before and after together.

    timm's function divides and rounds floats, which a program for any size cannot hold; whole numbers it can.
    """
    reach = dilation * (kernel - 1)
    padding = ((size + stride - 1) // stride - 1) * stride + reach + 1 - size
    return padding if reach + 1 >= stride else max(padding, 0)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def pads_as_same(operation: Any) -> bool:
    """Whether a layer has TensorFlow's padding, which depends on the size of its input."""
    return (
        isinstance(operation, Conv2dSame | AvgPool2dSame | MaxPool2dSame)
        or getattr(operation, "dynamic_padding", False)  # of a CondConv2d
        or getattr(operation, "same_pad", False)  # of a convolution with standardised weights
    )


def dilated_equivalent(name: str, operation: Any, rate: int, policy: Dilation) -> nn.Module:
    """The dilated equivalent of an operation, for a feature map `rate` times denser than the one it was made for."""
    if isinstance(operation, CONVOLUTIONS) and getattr(operation, "padding_mode", "zeros") == "zeros":
        return _dense_convolution(operation, rate, policy)
    if isinstance(operation, BlurPool2d) and operation.pad_mode in ("reflect", "constant"):
        return _DenseBlur(operation, rate)
    if isinstance(operation, nn.AvgPool2d):
        return _DenseAveragePool(operation, rate)
    if isinstance(operation, nn.MaxPool2d):
        return _DenseMaxPool(operation, rate)
    raise ValueError(f"'{name}' needs the dilation {rate}, which cannot be given to a {operation}")


def _dense_convolution(operation: Any, rate: int, policy: Dilation) -> nn.Module:
    window = Taps.of(operation)
    if policy in ("uniform", "first_blocks") and operation.kernel_size[0] > 1:
        rate, window = rate * operation.stride[0], replace(window, stride=(1, 1))
    if policy != "strided":
        operation.stride = (1, 1)
    left, right, top, bottom = window.dense_padding(rate, (1, 1))
    if window.padding is None or (left, top) != (right, bottom):
        operation = _without_own_padding(operation)
        operation.register_forward_pre_hook(_Padding(window, rate))
    else:
        operation.padding = (top, left)
    operation.dilation = tuple(d * rate for d in operation.dilation)
    return operation


def _without_own_padding(operation: Any) -> Any:
    operation.padding = (0, 0)
    for flag in ("dynamic_padding", "same_pad"):
        if hasattr(operation, flag):
            setattr(operation, flag, False)
    if isinstance(operation, Conv2dSame):
        return _plain_convolution(operation)
    return operation


def _plain_convolution(operation: Any) -> nn.Conv2d:
    plain = nn.Conv2d(
        operation.in_channels,
        operation.out_channels,
        operation.kernel_size,
        stride=operation.stride,
        dilation=operation.dilation,
        groups=operation.groups,
        bias=operation.bias is not None,
        device="meta",
    )
    plain.weight, plain.bias = operation.weight, operation.bias
    return plain


class _Padding:
    """Pads the input of a convolution that cannot do it by itself."""

    def __init__(self, window: Taps, rate: int) -> None:
        self.window, self.rate = window, rate

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *routing = inputs
        return F.pad(x, self.window.dense_padding(self.rate, (x.shape[-2], x.shape[-1]))), *routing


class _DenseAveragePool(nn.Module):
    """Mean over each window, taps `rate` apart: over its part inside the input, and the padding where that counts."""

    def __init__(self, pool: nn.AvgPool2d, rate: int) -> None:
        super().__init__()
        self.window = Taps.of(pool)
        self.counts_padding = self.window.padding is None or (pool.count_include_pad and any(self.window.padding))
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        total = self._window_sum(x)
        if self.counts_padding:
            return total / (self.window.kernel[0] * self.window.kernel[1])
        return total / self._window_sum(torch.ones_like(x[:1, :1]))

    def _window_sum(self, x: Tensor) -> Tensor:
        padded = F.pad(x, self.window.dense_padding(self.rate, (x.shape[-2], x.shape[-1])))
        rows, columns = ([i * self.rate for i in range(k)] for k in self.window.kernel)
        height, width = padded.shape[-2] - rows[-1], padded.shape[-1] - columns[-1]
        return reduce(torch.add, (padded[..., i : i + height, j : j + width] for i in rows for j in columns))


class _DenseMaxPool(nn.Module):
    """Maximum over each window, taps `rate` apart, over its part inside the input."""

    def __init__(self, pool: nn.MaxPool2d, rate: int) -> None:
        super().__init__()
        self.window = Taps.of(pool)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        padding = self.window.dense_padding(self.rate, (x.shape[-2], x.shape[-1]))
        dilation = [d * self.rate for d in self.window.dilation]
        return F.max_pool2d(F.pad(x, padding, value=-torch.inf), self.window.kernel, stride=1, dilation=dilation)


class _DenseBlur(nn.Module):
    """The blur's filter with its taps `rate` apart; a reflection at the edge stays within each sparse subset of positions."""

    def __init__(self, blur: Any, rate: int) -> None:
        super().__init__()
        self.blur: Any = blur
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.blur.padding
        if self.blur.pad_mode == "reflect":
            x = self._reflect(self._reflect(x, -1, left, right), -2, top, bottom)
        else:
            x = F.pad(x, [p * self.rate for p in self.blur.padding])
        weight = self.blur.filt.expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, weight, dilation=self.rate, groups=x.shape[1])

    def _reflect(self, x: Tensor, dim: int, before: int, after: int) -> Tensor:
        size = x.shape[dim]
        position = torch.arange(-before * self.rate, size + after * self.rate, device=x.device)
        phase = position % self.rate  # the sparse subset that this position belongs to, and its index there
        index = ((position - phase) // self.rate).abs()
        last = (size - 1 - phase) // self.rate
        index = torch.minimum(index, 2 * last - index).clamp(min=0)
        return x.index_select(dim, index * self.rate + phase)
