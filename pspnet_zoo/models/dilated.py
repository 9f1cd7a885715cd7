"""Strides beyond the wanted one become dilation, measured on the network itself.

The rule ("a trous"): an operation whose input has the stride r >= s gets stride 1 and dilation r / s. The pretrained network is
then evaluated densely: of a feature whose stride was k * s, `dilated(x)[..., ::k, ::k] == original(x)`. First blocks,
shortcuts and parallel branches come out right without knowing the architecture, because r is read off a forward pass. State-dict
keys never change.

timm's own `output_stride` is not used: it leaves average pools and blurs undilated and shifts the grid of 'same' padding.
Source: Chen et al. 2017, "Rethinking Atrous Convolution", section 3.1 (arXiv 1706.05587).

Published checkpoints were trained under other rules too. A state dict does not tell them apart, and the wrong one gives wrong
answers without an error, so they are named: `Dilation` for convolutions, `ShortcutPool` for average pools.
"""

import math
import re
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

import torch
from timm.layers import AvgPool2dSame, BlurPool2d, CondConv2d, Conv2dSame
from timm.layers.padding import get_same_padding
from timm.layers.pool2d_same import MaxPool2dSame
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Dilation = Literal["atrous", "uniform", "first_convolutions", "first_blocks", "strided"]
"""What happens to the convolutions whose input has the stride r >= s, where s is the output stride:

- "atrous": stride 1 and dilation r / s, as above. On a ResNet also what mmseg, gluon-cv, CSAIL and SegmenTron do.
- "uniform": a strided convolution also gets the dilation of the layers after it (hszhao/semseg, its Caffe original, PaddleSeg).
- "first_convolutions": atrous, but in a ResNet's basic block only the first of the two (mmseg's BasicBlock).
- "first_blocks": uniform, but only the first block of each stage of a MobileNetV2 (mmseg's MobileNetV2).
- "strided": the dilations of "atrous" at the output stride 8, and every stride stays (mmseg's "d32" configs).

Sources: mmseg/models/backbones/{resnet,mobilenet_v2}.py, semseg model/pspnet.py, PaddleSeg paddleseg/models/backbones/resnet_vd.py.
"""

ShortcutPool = Literal["dilated", "identity"]
"""What happens to the average pools there: "dilated" as above; "identity" leaves them out (PaddleSeg, mmseg's ResNeSt)."""

_PROBE = 512  # pixels; a multiple of every stride, and large beside the border that convolutions without padding cut off
_CONVOLUTIONS = (nn.Conv2d, CondConv2d)
_OPERATIONS = (*_CONVOLUTIONS, nn.AvgPool2d, nn.MaxPool2d, BlurPool2d)


def dilate(
    net: nn.Module,
    *,
    in_channels: int,
    output_stride: int,
    policy: Dilation = "atrous",
    shortcut_pool: ShortcutPool = "dilated",
) -> tuple[int, int]:
    """Bound the stride of every feature of `net`, in place, by replacing later strides with dilation.

    Args:
        net: Maps (N, in_channels, H, W) to features.
        in_channels: Channels of its input.
        output_stride: The largest stride that stays, in pixels.
        policy: What happens to convolutions, see `Dilation`. "strided" leaves every stride.
        shortcut_pool: What happens to average pools, see `ShortcutPool`.

    Returns:
        What the sides of an input have to be: a multiple of the first number, where operations cut off what their stride does not
        divide, and at least the second, where they cut off a border. In pixels; 1 for any side.

    Raises:
        ValueError: If an operation cannot be dilated, with its name; or the policy is one for other networks.
    """
    if policy == "first_convolutions" and not any(isinstance(m, BasicBlock) for m in net.modules()):
        raise ValueError("dilation 'first_convolutions' is a rule for ResNets of basic blocks, such as resnet18")
    if policy == "first_blocks" and not any(_BLOCK.match(name) for name, _ in net.named_modules()):
        raise ValueError("dilation 'first_blocks' is a rule for MobileNetV2 and its relatives, such as mobilenetv2_100")
    sizes = input_sizes(net, in_channels)
    strides = {name: _stride(size) for name, size in sizes.items()}
    windows = [_Window.of(net.get_submodule(name)) for name, r in strides.items() if r < output_stride]
    patches = next(iter(strides.values())) > 1  # pixels are rearranged before the first operation
    for name, stride in strides.items():
        operation = net.get_submodule(name)
        if stride < output_stride or _is_pointwise(operation) or _stays(net, name, policy):
            continue
        if isinstance(operation, nn.AvgPool2d) and shortcut_pool == "identity":
            dense = nn.Identity()
        else:
            dense = _dense(name, operation, stride // output_stride, policy)
        net.set_submodule(name, dense)
    cuts_off_border = any(size * strides[name] < _PROBE for name, size in sizes.items())
    return (
        output_stride if patches or any(w.cuts_off_remainder for w in windows) else 1,
        _PROBE // 4 if cuts_off_border else 1,
    )


def input_sizes(net: nn.Module, in_channels: int) -> dict[str, int]:
    """Width of the input of every convolution, pool and blur, by module name, read off one forward without data."""
    sizes: dict[str, int] = {}

    def record(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes[name] = inputs[0].shape[-1]

        return hook

    handles = [m.register_forward_pre_hook(record(n)) for n, m in net.named_modules() if isinstance(m, _OPERATIONS)]
    try:
        probe(net, in_channels)
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def input_strides(net: nn.Module, in_channels: int) -> dict[str, int]:
    """Pixels per step of the input of every convolution, pool and blur, by module name."""
    return {name: _stride(size) for name, size in input_sizes(net, in_channels).items()}


def _stride(size: int) -> int:
    return 2 ** round(math.log2(_PROBE / size))


def probe(net: nn.Module, in_channels: int) -> None:
    """Run one forward without data, for the hooks that are on `net`.

    Raises:
        ValueError: If `net` does not take such a picture.
    """
    was_training = net.training
    tensors = {name: t.to("meta") for name, t in [*net.named_parameters(), *net.named_buffers()]}
    picture = torch.empty(1, in_channels, _PROBE, _PROBE, device="meta", dtype=next(net.parameters()).dtype)
    try:
        with torch.no_grad(), _WithoutBatchNorms():
            torch.func.functional_call(net.eval(), tensors, picture)
    except Exception as error:  # whatever comes first in timm
        raise ValueError(f"The strides cannot be measured: the network does not take {_PROBE}x{_PROBE} pixels. {error}") from error
    finally:
        net.train(was_training)


class _WithoutBatchNorms(TorchFunctionMode):
    """Leaves out what keeps the size and takes torch nine tenths of a forward without data."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is F.batch_norm else func(*args, **(kwargs or {}))


def _is_pointwise(operation: Any) -> bool:
    return isinstance(operation, _CONVOLUTIONS) and operation.kernel_size == (1, 1) and operation.stride == (1, 1)


_BLOCK = re.compile(r"blocks\.\d+\.(\d+)\b")  # timm's name of a block of an efficientnet, with its index in the stage


def _stays(net: nn.Module, name: str, policy: Dilation) -> bool:
    """Whether this operation keeps its dilation, an exception of the policy."""
    if policy == "first_convolutions":
        block, _, layer = name.rpartition(".")
        return layer == "conv2" and isinstance(net.get_submodule(block), BasicBlock)
    if policy == "first_blocks":
        match = _BLOCK.match(name)
        return match is not None and match[1] != "0"
    return policy == "strided" and not isinstance(net.get_submodule(name), _CONVOLUTIONS)


@dataclass(frozen=True)
class _Window:
    """Where an operation on a sparse map takes its values from; every pair is (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int] | None
    """Before and after the map; None is 'same' padding, which depends on the size of the map and is not symmetric."""
    rounds_up: bool
    """Whether a last window that is partly outside the map counts (`ceil_mode`)."""

    @classmethod
    def of(cls, operation: Any) -> "_Window":
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
        """(left, right, top, bottom) for the twin with stride 1 on a map `rate` times denser, of the size (rows, columns)."""
        sides = []
        for axis in (1, 0):
            stride, reach = self.stride[axis], self.reach[axis]
            if self.padding is None:
                sparse_size = (size[axis] + rate - 1) // rate
                before = get_same_padding(sparse_size, self.kernel[axis], stride, self.dilation[axis]) // 2
                after = reach - before
            else:
                before = after = self.padding[axis]
                if self.rounds_up or 0 < reach - 2 * before < stride:
                    after = reach - before
            sides += [before * rate, after * rate]
        return sides


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def pads_as_same(operation: Any) -> bool:
    """Whether a layer has TensorFlow's padding, which depends on the size of its input."""
    return (
        isinstance(operation, Conv2dSame | AvgPool2dSame | MaxPool2dSame)
        or getattr(operation, "dynamic_padding", False)  # of a CondConv2d
        or getattr(operation, "same_pad", False)  # of a convolution with standardised weights
    )


def _dense(name: str, operation: Any, rate: int, policy: Dilation) -> nn.Module:
    """The stride-1 twin of an operation, for a map `rate` times denser than the one it was made for."""
    if isinstance(operation, _CONVOLUTIONS) and getattr(operation, "padding_mode", "zeros") == "zeros":
        return _dense_convolution(operation, rate, policy)
    if isinstance(operation, BlurPool2d) and operation.pad_mode in ("reflect", "constant"):
        return _DenseBlur(operation, rate)
    if isinstance(operation, nn.AvgPool2d):
        return _DenseAveragePool(operation, rate)
    if isinstance(operation, nn.MaxPool2d):
        return _DenseMaxPool(operation, rate)
    raise ValueError(f"'{name}' needs the dilation {rate}, which cannot be given to a {operation}")


def _dense_convolution(operation: Any, rate: int, policy: Dilation) -> nn.Module:
    window = _Window.of(operation)
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
        return _plain_twin(operation)
    return operation


def _plain_twin(operation: Any) -> nn.Conv2d:
    plain = nn.Conv2d(
        operation.in_channels,
        operation.out_channels,
        operation.kernel_size,
        dilation=operation.dilation,
        groups=operation.groups,
        bias=operation.bias is not None,
        device="meta",
    )
    plain.weight, plain.bias = operation.weight, operation.bias
    return plain


class _Padding:
    """Pads the input of a convolution that cannot do it by itself."""

    def __init__(self, window: _Window, rate: int) -> None:
        self.window, self.rate = window, rate

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *routing = inputs
        return F.pad(x, self.window.dense_padding(self.rate, (x.shape[-2], x.shape[-1]))), *routing


class _DenseAveragePool(nn.Module):
    """Mean over each window, taps `rate` apart: over its part inside the map, and the zeros around it where those count."""

    def __init__(self, pool: nn.AvgPool2d, rate: int) -> None:
        super().__init__()
        self.window = _Window.of(pool)
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
    """Maximum over each window, taps `rate` apart, over its part inside the map."""

    def __init__(self, pool: nn.MaxPool2d, rate: int) -> None:
        super().__init__()
        self.window = _Window.of(pool)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        padding = self.window.dense_padding(self.rate, (x.shape[-2], x.shape[-1]))
        dilation = [d * self.rate for d in self.window.dilation]
        return F.max_pool2d(F.pad(x, padding, value=-torch.inf), self.window.kernel, stride=1, dilation=dilation)


class _DenseBlur(nn.Module):
    """The blur's filter with its taps `rate` apart; a reflection at the border stays within each sparse grid."""

    def __init__(self, blur: Any, rate: int) -> None:
        super().__init__()
        self.blur: Any = blur
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.blur.padding
        if self.blur.pad_mode == "reflect":
            x = self._reflect(self._reflect(x, -1, left, right), -2, top, bottom)
        else:
            x = F.pad(x, [p * self.rate for p in self.blur.padding], mode=self.blur.pad_mode)
        weight = self.blur.filt.expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, weight, dilation=self.rate, groups=x.shape[1])

    def _reflect(self, x: Tensor, dim: int, before: int, after: int) -> Tensor:
        size = x.shape[dim]
        position = torch.arange(-before * self.rate, size + after * self.rate, device=x.device)
        phase = position % self.rate  # the sparse grid this position belongs to, and its index there
        index = ((position - phase) // self.rate).abs()
        last = (size - 1 - phase) // self.rate
        index = torch.minimum(index, 2 * last - index).clamp(min=0)
        return x.index_select(dim, index * self.rate + phase)
