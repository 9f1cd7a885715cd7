"""Folds what follows convolutions into them and runs wide 3x3 convolutions by Winograd's algorithm, for less time on a CPU.

The network is not changed. One recorded forward finds what can be folded: a batch norm whose input is the output of a convolution
and is read by nothing else, each of the two called once; the addition of another tensor, as of a residual block, that is not read
afterwards, so that the sum can take its memory; and an activation whose input is the output of any of these, by the same rule.
While the accelerated network runs, these calls are intercepted. This depends on the calls that a network makes, not on the names of
its layers.

No result depends on old weights: norms are read in each call, and a folded weight is kept beside the weight and scale that it was
made from and made anew when they differ.
"""

import functools
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..pool import Pool
from .grids import has_hooks
from .winograd import Workspace, winograd_conv2d

_SAMPLE = 128  # pixels a side, at most, of the recorded image
WIDE = 192
"""Smallest number of input and output channels at which Winograd's algorithm pays."""
_Key = tuple[int, torch.Size, tuple[int, ...]]


class Accelerated:
    """A network with folded norms and activations and Winograd convolutions; safe in threads if the network is.

    Args:
        network: In evaluation mode, with float32 weights on the CPU.
        winograd: False folds only.
    """

    def __init__(self, network: nn.Module, *, winograd: bool = True) -> None:
        self.network = network
        self.winograd = winograd
        self._calls: dict[_Key, _Convolution] | None = None
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
        with _Record([*self.network.parameters(), *self.network.buffers(), x]) as record:
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


@dataclass(frozen=True)
class _Norm:
    """The batch norm that follows a convolution; its tensors share the memory of the network's."""

    tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
    """Running mean, running variance, weight and bias."""
    eps: float

    @classmethod
    def of(cls, call: dict[str, Any]) -> "_Norm":
        """The norm that a call of `batch_norm` computes."""
        mean, var, weight, bias = (_detached(call[name]) for name in ("running_mean", "running_var", "weight", "bias"))
        return cls((mean, var, weight, bias), call["eps"])

    def is_called_by(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call computes this norm, with running statistics."""
        if func is not F.batch_norm:
            return False
        call = _named(_BATCH_NORM, args, kwargs)
        own, other = ([None if t is None else _key(t) for t in norm.tensors] for norm in (self, _Norm.of(call)))
        return own == other and self.eps == call["eps"] and not call["training"]

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(O,) float64 each: the norm of y is y * scale + shift."""
        mean, var, weight, bias = self.tensors
        scale = (var.double() + self.eps).rsqrt() * (1 if weight is None else weight.double())
        return scale, (0 if bias is None else bias.double()) - mean.double() * scale


@dataclass(frozen=True)
class _Activation:
    """The activation that follows a convolution or its norm."""

    func: Callable[..., Tensor]
    settings: dict[str, Any]
    """Its other arguments than the input."""

    @classmethod
    def of(cls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_Activation | None":
        """The activation that a call computes; None for another call."""
        return cls(func, _named(_ACTIVATIONS[func], args[1:], kwargs)) if func in _ACTIVATIONS else None

    def is_called_by(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call computes this activation."""
        return self == _Activation.of(func, args, kwargs)

    def __call__(self, x: Tensor) -> Tensor:
        """Compute it in place."""
        return self.func(x, **{**self.settings, "inplace": True})

    @property
    def name(self) -> tuple[str, list[float]]:
        """Its name and numbers in oneDNN's words."""
        if self.func is F.relu:
            return "relu", []
        return "hardtanh", [float(self.settings["min_val"]), float(self.settings["max_val"])]


@dataclass(frozen=True)
class _Sum:
    """The addition of another tensor to the output of a convolution or its norm."""

    activation: _Activation | None = None
    """That of the sum."""


@dataclass
class _Convolution:
    """A convolution of the network, with what follows it where that can be folded."""

    weight: Tensor
    bias: Tensor | None
    norm: _Norm | None = None
    sum: _Sum | None = None
    activation: _Activation | None = None
    _folded: tuple[Tensor, Tensor, Tensor] | None = None
    """The weight and scale that were folded, and the result; replaced as a whole, so that threads never see parts of two."""

    @property
    def followers(self) -> list[_Norm | _Activation]:
        """The norm and activation that are folded into it, in the order of the calls."""
        return [follower for follower in (self.norm, self.activation) if follower is not None]

    def scale_and_bias(self) -> tuple[Tensor | None, Tensor | None]:
        """(O,) float64 scale and (O,) float32 bias that the convolution without a bias lacks."""
        if self.norm is None:
            return None, self.bias
        scale, shift = self.norm.scale_and_shift()
        bias = shift if self.bias is None else shift + self.bias.double() * scale
        return scale, bias.to(self.weight.dtype)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the convolution and its norm in one."""
        scale, bias = self.scale_and_bias()
        if scale is None:
            return self.weight, bias
        if self._folded is None or not (_same(self._folded[0], self.weight) and _same(self._folded[1], scale)):
            folded = (self.weight * scale[:, None, None, None]).to(self.weight.dtype)
            self._folded = self.weight.clone(), scale, folded.contiguous(memory_format=torch.channels_last)
        return self._folded[2], bias


class _Record(TorchFunctionMode):
    """Records the convolutions of one forward and what reads their outputs."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self._lasting = {t.untyped_storage().data_ptr() for t in tensors}
        self._convolutions: dict[_Key, _Convolution] = {}
        self._times: Counter[_Key] = Counter()
        self._outputs: dict[int, tuple[_Key, Tensor]] = {}  # tensors are kept so that no other gets their id
        self._readers: Counter[_Key] = Counter()
        self._norms: list[tuple[_Key, _Key, _Norm]] = []
        self._activations: list[tuple[_Key, _Activation]] = []
        self._sums: dict[_Key, tuple[_Key, Tensor]] = {}  # the producer, and what is added to it
        self._read_again: set[int] = set()  # memory of what was added

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        values = _flat((args, tuple(kwargs.values())))
        if _has_tensor(result):
            for value in values:
                if id(value) in self._outputs:
                    self._readers[self._outputs[id(value)][0]] += 1
        self._note_reading(values)
        if func is F.conv2d:
            call = _named(_CONV2D, args, kwargs)
            if call["weight"].untyped_storage().data_ptr() in self._lasting:  # else it is computed in each forward
                key = _key(call["weight"])
                self._convolutions[key] = _Convolution(call["weight"].detach(), _detached(call["bias"]))
                self._times[key] += 1
                self._outputs[id(result)] = key, result
        elif func is F.batch_norm:
            call = _named(_BATCH_NORM, args, kwargs)
            if call["running_mean"] is not None:
                norm = _key(call["running_mean"])
                self._times[norm] += 1
                if id(call["input"]) in self._outputs and not call["training"]:
                    self._norms.append((norm, self._outputs[id(call["input"])][0], _Norm.of(call)))
                    self._outputs[id(result)] = norm, result
        elif (activation := _Activation.of(func, args, kwargs)) is not None and args and id(args[0]) in self._outputs:
            # in place, the result is the same tensor, whose next readers are the activation's
            producer, _ = self._outputs.pop(id(args[0])) if result is args[0] else self._outputs[id(args[0])]
            self._activations.append((producer, activation))
        elif _adds_two(func, args, kwargs):
            self._note_sum(args, result)
        return result

    def _note_sum(self, added: tuple[Tensor, Tensor], result: Tensor) -> None:
        for own, other in (added, added[::-1]):
            memory = other.untyped_storage()
            is_free = memory.nbytes() == other.nbytes and memory.data_ptr() not in self._lasting and result is not other
            producer = self._outputs[id(own)][0] if id(own) in self._outputs else None
            is_output = producer is not None and producer not in self._sums and self._readers[producer] == 1
            if producer and is_output and is_free and own is not other and own.shape == other.shape:
                key = -len(self._sums) - 1, result.shape, result.stride()  # no address is negative
                self._sums[key] = producer, other
                self._times[key] = 1
                self._outputs[id(result)] = key, result
                return

    def _note_reading(self, values: list[Any]) -> None:
        taken = {other.untyped_storage().data_ptr() for _, other in self._sums.values()}
        self._read_again |= taken & {value.untyped_storage().data_ptr() for value in values if isinstance(value, Tensor)}

    def folded(self, output: Any) -> dict[_Key, _Convolution]:
        """Every convolution that is called once, by its weight.

        Args:
            output: Of the recorded forward.
        """
        self._note_reading(_flat(output))
        last = {key: key for key in self._convolutions}  # the convolution whose output, or norm's output, it is
        for key, convolution, norm in self._norms:
            is_alone = self._times[key] == self._times[convolution] == self._readers[convolution] == 1
            if convolution in self._convolutions and is_alone:  # and not a sum
                self._convolutions[convolution].norm = norm
                last[key] = convolution
        for key, (producer, other) in self._sums.items():
            is_free = other.untyped_storage().data_ptr() not in self._read_again
            if producer in last and self._times[producer] == self._readers[producer] == 1 and is_free:
                self._convolutions[last[producer]].sum = _Sum()
                last[key] = last[producer]
        for key, activation in self._activations:
            if key in last and self._times[key] == self._readers[key] == 1:
                if key in self._sums:
                    self._convolutions[last[key]].sum = _Sum(activation)
                else:
                    self._convolutions[last[key]].activation = activation
        return {key: c for key, c in self._convolutions.items() if self._times[key] == 1}


class _Replay(TorchFunctionMode):
    """Computes recorded convolutions with what is folded into them, and skips those calls.

    Raises:
        _Changed: If a folded output reaches anything but the calls that were folded.
    """

    def __init__(self, calls: dict[_Key, _Convolution], winograd: bool, workspace: Workspace, adds: bool) -> None:
        super().__init__()
        self._calls = calls
        self._winograd = winograd
        self._workspace = workspace
        self._adds = adds
        self._waiting: dict[int, tuple[Tensor, list[_Norm | _Activation]]] = {}
        """Folded outputs with the calls that are to be skipped."""
        self._delayed: dict[int, tuple[_Convolution, dict[str, Any]]] = {}
        """Convolutions that are computed with the sum that follows them, by the empty tensor that stands for their output."""
        self._overwritten: dict[int, weakref.ref[Tensor]] = {}
        """What was added, whose memory a sum has taken."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        value = args[0] if args else kwargs.get("input")
        if _adds_two(func, args, kwargs):
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
            call = _named(_CONV2D, args, kwargs)
            convolution = self._calls.get(_key(call["weight"]))
            if convolution is not None and id(call["input"]) not in self._waiting:
                is_delayed = self._adds and convolution.sum is not None and self._is_plain(convolution, call)
                result = _empty_output(call) if is_delayed else self._convolve(convolution, call)
                if is_delayed:
                    self._delayed[id(result)] = convolution, call
                if is_delayed or convolution.followers:
                    self._waiting[id(result)] = result, convolution.followers
                return result
        result = _padded(*args) if func is F.pad and not kwargs and len(args) == 2 else func(*args, **kwargs)
        if (self._waiting or self._overwritten) and _has_tensor(result):
            self._check_reading(_flat((args, tuple(kwargs.values()))))
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
        self._check_reading(_flat(output))

    def _add(self, func: Any, args: tuple[Tensor, Tensor], own: Tensor, other: Tensor) -> Tensor:
        """Compute a delayed convolution and its sum with another tensor, in the memory of that."""
        del self._waiting[id(own)]
        convolution, call = self._delayed.pop(id(own))
        is_whole = other.untyped_storage().nbytes() == other.nbytes and other.is_contiguous(memory_format=torch.channels_last)
        if other.shape != own.shape or other.dtype != torch.float32 or not is_whole:
            computed = F.conv2d(call["input"], *convolution.folded(), *(call[name] for name in list(_CONV2D)[3:]))
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

    def _pays_winograd(self, convolution: _Convolution, call: dict[str, Any]) -> bool:
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

    def _is_plain(self, convolution: _Convolution, call: dict[str, Any]) -> bool:
        """Whether oneDNN computes it, which can compute more than the convolution in one pass."""
        x = call["input"]
        return (
            not self._pays_winograd(convolution, call)
            and not isinstance(call["padding"], str)
            and x.dtype == torch.float32
            and x.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_autocast_enabled("cpu")
            and _fuses()
        )

    def _convolve(self, convolution: _Convolution, call: dict[str, Any]) -> Tensor:
        x, weight, activation = call["input"], convolution.weight, convolution.activation
        if self._pays_winograd(convolution, call):
            scale, bias = convolution.scale_and_bias()
            scale = None if scale is None else scale.to(weight.dtype)
            dilation = _one(call["dilation"]) or 1
            result = winograd_conv2d(x, weight, bias, dilation=dilation, scale=scale, workspace=self._workspace)
        elif activation is not None and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and _fuses():
            inputs = x, *convolution.folded(), *_sides(call), call["groups"]
            return torch.ops.mkldnn._convolution_pointwise(*inputs, *activation.name, "")
        else:
            result = F.conv2d(x, *convolution.folded(), call["stride"], call["padding"], call["dilation"], call["groups"])
        return result if activation is None else activation(result)


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


_CONV2D = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_BATCH_NORM = {
    "input": None,
    "running_mean": None,
    "running_var": None,
    "weight": None,
    "bias": None,
    "training": False,
    "momentum": 0.1,
    "eps": 1e-5,
}
_ACTIVATIONS: dict[Any, dict[str, Any]] = {
    F.relu: {"inplace": False},
    F.hardtanh: {"min_val": -1.0, "max_val": 1.0, "inplace": False},
}
"""Activations that can be folded, with their other arguments than the input; oneDNN's SiLU takes longer than a pass of its own."""


_SUMS = {Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.add, Tensor.add_, torch.add}


def _adds_two(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call adds two tensors."""
    return func in _SUMS and len(args) == 2 and not kwargs and all(isinstance(value, Tensor) for value in args)


def _named(defaults: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    return {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}


def _key(tensor: Tensor) -> _Key:
    """The memory that a tensor is a view of; the same for views that each forward makes anew."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _one(value: Any) -> int | None:
    """The number for both axes; None if they differ or it is a word."""
    if isinstance(value, int):
        return value
    return value[0] if isinstance(value, tuple | list) and len(set(value)) == 1 else None


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _flat(values: Any) -> list[Any]:
    if isinstance(values, tuple | list):
        return [leaf for value in values for leaf in _flat(value)]
    return [values]


def _has_tensor(result: Any) -> bool:
    return any(isinstance(value, Tensor) for value in _flat(result))


def _detached(tensor: Any) -> Any:
    return tensor.detach() if isinstance(tensor, Tensor) else tensor


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same values; several times faster than torch.equal."""
    return np.array_equal(one.numpy(), other.numpy())
