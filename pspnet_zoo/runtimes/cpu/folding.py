"""Folds what follows convolutions into them and runs wide 3x3 convolutions by Winograd's algorithm, for less time on a CPU.

The network is not changed. One recorded forward finds what can be folded: a batch norm whose input is the output of a convolution
and is read by nothing else, each of the two called once; the addition of another tensor, as of a residual block, that nothing reads
afterwards, so that the sum can take its memory; and an activation whose input is the output of any of these, by the same rule.
While the accelerated network runs, these calls are intercepted. This depends on the calls that a network makes, not on the names of
its layers.

No result depends on old weights: norms are read in each call, and a folded weight is kept beside the weight and scale that it was
made from and made anew when they differ.
"""

import functools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..pool import Pool
from .grids import has_hooks
from .recorded_calls import (
    CONV2D,
    ActivationCall,
    CallRecorder,
    ConvolutionCall,
    Key,
    NormCall,
    adds_two,
    flat,
    has_tensor,
    key_of,
    named,
)
from .winograd import Workspace, winograd_conv2d

_SAMPLE = 128  # pixels a side, at most, of the recorded image
WIDE = 192
"""Smallest number of input and output channels at which Winograd's algorithm pays."""


class Accelerated:
    """A network with folded norms and activations and Winograd convolutions; safe in threads if the network is.

    Args:
        network: In evaluation mode, with float32 weights on the CPU.
        winograd: False folds only.
    """

    def __init__(self, network: nn.Module, *, winograd: bool = True) -> None:
        self.network = network
        self.winograd = winograd
        self._calls: dict[Key, ConvolutionCall] | None = None
        self._workspaces = Pool(Workspace)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Any:
        """The network's output for x, (N, C, H, W).

        Raises:
            RuntimeError: If the network makes other calls in each forward.
        """
        if self._calls is None:
            self._record(x[:1, :, :_SAMPLE, :_SAMPLE])
        try:
            return self._replay(x)
        except _Changed:  # another eps, a new hook, or a branch that the small image did not take
            self._record(x[:1])
        try:
            return self._replay(x)
        except _Changed as change:
            raise RuntimeError(f"{change}, in a forward like the one just recorded. Run this network with fast=False") from None

    def _record(self, x: Tensor) -> None:
        with CallRecorder([*self.network.parameters(), *self.network.buffers(), x]) as record:
            output = self.network(x)
        self._calls = record.folded(output)

    def _replay(self, x: Tensor) -> Any:
        # a hook may keep a tensor whose memory a sum would take
        adds = not any(has_hooks(module) for module in self.network.modules())
        with self._workspaces.lend() as workspace, _Replay(self._calls or {}, self.winograd, workspace, adds) as replay:
            output = self.network(x)
        replay.check_finished(output)
        return output


def winograd_pays(in_channels: int, out_channels: int, height: int, width: int, dilation: int) -> bool:
    """Whether Winograd's algorithm is the faster one for a 3x3 convolution; measured by `benchmarks/winograd.py`.

    It needs a quarter of the multiplications, but its transforms read and write the feature map several times, which costs narrow
    layers more than they gain; and tiles that reach beyond the edge of a small feature map are wasted.
    """
    tiles = -(-height // (4 * dilation)) * -(-width // (4 * dilation)) * dilation**2
    return min(in_channels, out_channels) >= WIDE and tiles >= 64 and 16 * tiles <= 1.5 * height * width


class _Changed(Exception):
    """The network made other calls than those that were recorded."""


class _Replay(TorchFunctionMode):
    """Computes recorded convolutions with what is folded into them, and skips those calls.

    Raises:
        _Changed: If a folded output reaches anything but the calls that were folded.
    """

    def __init__(self, calls: dict[Key, ConvolutionCall], winograd: bool, workspace: Workspace, adds: bool) -> None:
        super().__init__()
        self._calls = calls
        self._winograd = winograd
        self._workspace = workspace
        self._adds = adds
        self._waiting: dict[int, tuple[Tensor, list[NormCall | ActivationCall]]] = {}
        """Folded outputs with the calls that are to be skipped."""
        self._delayed: dict[int, tuple[ConvolutionCall, dict[str, Any]]] = {}
        """Convolutions that are computed with the sum that follows them, by the empty tensor that stands for their output."""
        self._overwritten: dict[int, weakref.ref[Tensor]] = {}
        """Tensors that were added to a convolution, in whose memory the sum lies now."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        value = args[0] if args else kwargs.get("input")
        if adds_two(func, args, kwargs):
            for own, other in (args, args[::-1]):
                if id(own) in self._delayed and id(other) not in self._waiting and not self._waiting[id(own)][1]:
                    return self._add(func, args, own, other)
        elif (waiting := self._waiting.get(id(value))) is not None:
            followers = waiting[1]
            if followers and followers[0].is_called_by(func, args, kwargs):
                followers.pop(0)
                if not followers and id(value) not in self._delayed:
                    del self._waiting[id(value)]
                return value
        if func is F.conv2d:
            call = named(CONV2D, args, kwargs)
            convolution = self._calls.get(key_of(call["weight"]))
            if convolution is not None and id(call["input"]) not in self._waiting:
                is_delayed = self._adds and convolution.sum is not None and self._is_plain(convolution, call)
                result = _empty_output(call) if is_delayed else self._convolve(convolution, call)
                if is_delayed:
                    self._delayed[id(result)] = convolution, call
                if is_delayed or convolution.followers:
                    self._waiting[id(result)] = result, convolution.followers
                return result
        result = _padded(*args) if func is F.pad and not kwargs and len(args) == 2 else func(*args, **kwargs)
        if (self._waiting or self._overwritten) and has_tensor(result):
            self._check_reading(flat((args, tuple(kwargs.values()))))
        return result

    def _check_reading(self, values: list[Any]) -> None:
        if any(id(value) in self._waiting for value in values):
            raise _Changed(
                "The output of a folded convolution is read by something else than the batch norm or activation after it"
            )
        for value in values:
            if (taken := self._overwritten.get(id(value))) is not None and taken() is value:
                raise _Changed("What was added to the output of a convolution is read again")

    def check_finished(self, output: Any) -> None:
        """Raise if a folded output never reached its norm or activation, or the network returns what a sum has overwritten."""
        if self._waiting:
            raise _Changed("The output of a folded convolution did not reach the norm or activation after it")
        self._check_reading(flat(output))

    def _add(self, func: Any, args: tuple[Tensor, Tensor], own: Tensor, other: Tensor) -> Tensor:
        """Compute a delayed convolution and its sum with another tensor, in the memory of that."""
        del self._waiting[id(own)]
        convolution, call = self._delayed.pop(id(own))
        is_whole = other.untyped_storage().nbytes() == other.nbytes and other.is_contiguous(memory_format=torch.channels_last)
        if other.shape != own.shape or other.dtype != torch.float32 or not is_whole:
            computed = self._convolve(convolution, call)
            return func(*(computed if value is own else value for value in args))
        activation = convolution.sum.activation if convolution.sum else None
        name, numbers = activation.name if activation else (None, [])
        inputs = call["input"], *convolution.folded(), *_sides(call), call["groups"]
        torch.ops.mkldnn._convolution_pointwise_.binary(other, *inputs, "add", 1.0, name, numbers, "")
        self._overwritten[id(other)] = weakref.ref(other)
        result = other.detach()  # the same memory under another name
        if activation:
            self._waiting[id(result)] = result, [activation]
        return result

    def _pays_winograd(self, convolution: ConvolutionCall, call: dict[str, Any]) -> bool:
        x, weight, dilation = call["input"], convolution.weight, _one(call["dilation"])
        return (
            self._winograd
            and weight.shape[-2:] == (3, 3)
            and call["groups"] == _one(call["stride"]) == 1
            and dilation is not None
            and dilation == _one(call["padding"])
            and x.dtype == torch.float32
            and winograd_pays(weight.shape[1], weight.shape[0], x.shape[-2], x.shape[-1], dilation)
        )

    def _is_plain(self, convolution: ConvolutionCall, call: dict[str, Any]) -> bool:
        """Whether oneDNN computes it, which can compute more than the convolution in one pass."""
        x = call["input"]
        return (
            not self._pays_winograd(convolution, call)
            and not isinstance(call["padding"], str)
            and x.is_contiguous(memory_format=torch.channels_last)
            and _can_fuse(x)
        )

    def _convolve(self, convolution: ConvolutionCall, call: dict[str, Any]) -> Tensor:
        x, weight, activation = call["input"], convolution.weight, convolution.activation
        if self._pays_winograd(convolution, call):
            scale, bias = convolution.scale_and_bias()
            scale = None if scale is None else scale.to(weight.dtype)
            dilation = _one(call["dilation"]) or 1
            result = winograd_conv2d(x, weight, bias, dilation=dilation, scale=scale, workspace=self._workspace)
        elif activation is not None and _can_fuse(x):
            inputs = x, *convolution.folded(), *_sides(call), call["groups"]
            return torch.ops.mkldnn._convolution_pointwise(*inputs, *activation.name, "")
        else:
            result = F.conv2d(x, *convolution.folded(), call["stride"], call["padding"], call["dilation"], call["groups"])
        return result if activation is None else activation(result)


def _can_fuse(x: Tensor) -> bool:
    """Whether a convolution of x can be computed in one pass with what follows it."""
    return x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and _fuses()


def _sides(call: dict[str, Any]) -> list[list[int]]:
    return [_pair(call[name]) for name in ("padding", "stride", "dilation")]


def _empty_output(call: dict[str, Any]) -> Tensor:
    """A tensor of the size of a convolution's output, whose values are not set."""
    x, weight = call["input"], call["weight"]
    sizes = zip(x.shape[2:], weight.shape[2:], *_sides(call), strict=True)
    height, width = ((size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, pad, stride, dilation in sizes)
    shape = (len(x), len(weight), height, width)
    return torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)


def _padded(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Compute F.pad(x, sides) without writing each value twice, for (N, C, H, W) with zeros around it."""
    if x.ndim != 4 or len(sides) != 4 or min(sides) < 0:
        return F.pad(x, sides)
    left, right, top, bottom = sides
    count, channels, height, width = x.shape
    out = x.new_empty((count, height + top + bottom, width + left + right, channels)).permute(0, 3, 1, 2)
    out[..., top : top + height, left : left + width] = x
    for strip in (out[..., :top, :], out[..., top + height :, :], out[..., :left], out[..., left + width :]):
        strip.zero_()
    return out


@functools.cache
def _fuses() -> bool:
    """Whether this PyTorch computes a convolution, a sum and an activation in one pass, by operations made for its own compiler."""
    x, weight, bias = torch.randn(1, 2, 5, 5), torch.randn(4, 2, 3, 3), torch.randn(4)
    other = torch.randn(1, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    plain = F.conv2d(x, weight, bias, padding=1)
    inputs = x, weight, bias, [1, 1], [1, 1], [1, 1], 1
    try:
        found = torch.ops.mkldnn._convolution_pointwise(*inputs, "hardtanh", [0.0, 6.0], "")
        added = torch.ops.mkldnn._convolution_pointwise_.binary(other.clone(), *inputs, "add", 1.0, "relu", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(*pair, atol=1e-5) for pair in ((found, plain.clamp(0, 6)), (added, (plain + other).relu())))


def _one(value: Any) -> int | None:
    """The number for both axes; None if they differ or it is a word."""
    if isinstance(value, int):
        return value
    return value[0] if isinstance(value, tuple | list) and len(set(value)) == 1 else None


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
