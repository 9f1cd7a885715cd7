"""Folds batch norms into convolutions and runs wide 3x3 convolutions by Winograd's algorithm, for less time on a CPU.

The network is not changed. One recorded forward finds what can be folded: a batch norm whose input is the output of a convolution
and is read by nothing else, each of the two called once. While the accelerated network runs, its calls of `conv2d` and
`batch_norm` are intercepted. This depends on the calls that a network makes, not on the names of its layers.

No result depends on old weights: norms are read in each call, and a folded weight is kept beside the weight and scale that it was
made from and made anew when they differ.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .winograd import Workspace, winograd_conv2d

_SAMPLE = 128  # pixels a side, at most, of the recorded image
WIDE = 256
"""Smallest number of input and output channels at which Winograd's algorithm pays."""
_Key = tuple[int, torch.Size, tuple[int, ...]]


class Accelerated:
    """A network with folded batch norms and Winograd convolutions; safe in threads if the network is.

    Args:
        network: In evaluation mode, with float32 weights on the CPU.
        winograd: False folds batch norms only.
    """

    def __init__(self, network: nn.Module, *, winograd: bool = True) -> None:
        self.network = network
        self.winograd = winograd
        self._calls: dict[_Key, _Convolution] | None = None

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
        with _Record([*self.network.parameters(), *self.network.buffers()]) as record:
            self.network(x)
        self._calls = record.folded()

    def _replay(self, x: Tensor) -> Any:
        with _Replay(self._calls or {}, self.winograd) as replay:
            output = self.network(x)
        replay.check_finished()
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

    def is_called_by(self, call: dict[str, Any]) -> bool:
        """Whether a call of `batch_norm` computes this norm, with running statistics."""
        own, other = ([None if t is None else _key(t) for t in norm.tensors] for norm in (self, _Norm.of(call)))
        return own == other and self.eps == call["eps"] and not call["training"]

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(O,) float64 each: the norm of y is y * scale + shift."""
        mean, var, weight, bias = self.tensors
        scale = (var.double() + self.eps).rsqrt() * (1 if weight is None else weight.double())
        return scale, (0 if bias is None else bias.double()) - mean.double() * scale


@dataclass
class _Convolution:
    """A convolution of the network, with the batch norm after it where there is one to fold."""

    weight: Tensor
    bias: Tensor | None
    norm: _Norm | None = None
    _folded: tuple[Tensor, Tensor, Tensor] | None = None
    """The weight and scale that were folded, and the result; replaced as a whole, so that threads never see parts of two."""

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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if _has_tensor(result):
            for value in _flat((args, tuple(kwargs.values()))):
                if id(value) in self._outputs:
                    self._readers[self._outputs[id(value)][0]] += 1
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
        return result

    def folded(self) -> dict[_Key, _Convolution]:
        """Every convolution that is called once, by its weight."""
        for key, convolution, norm in self._norms:
            if self._times[key] == self._times[convolution] == self._readers[convolution] == 1:
                self._convolutions[convolution].norm = norm
        return {key: c for key, c in self._convolutions.items() if self._times[key] == 1}


class _Replay(TorchFunctionMode):
    """Computes recorded convolutions with their norms folded in, and skips those norms.

    Raises:
        _Changed: If a folded output reaches anything but its norm.
    """

    def __init__(self, calls: dict[_Key, _Convolution], winograd: bool) -> None:
        super().__init__()
        self._calls = calls
        self._winograd = winograd
        self._workspace = Workspace()
        self._waiting: dict[int, tuple[Tensor, _Norm]] = {}
        """Folded outputs whose norm has not been called yet."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and self._waiting:
            call = _named(_BATCH_NORM, args, kwargs)
            if (waiting := self._waiting.pop(id(call["input"]), None)) is not None:
                if not waiting[1].is_called_by(call):
                    raise _Changed("A folded convolution is followed by another batch norm than its own")
                return call["input"]
        elif func is F.conv2d:
            call = _named(_CONV2D, args, kwargs)
            convolution = self._calls.get(_key(call["weight"]))
            if convolution is not None:
                result = self._convolve(convolution, call)
                if convolution.norm is not None:
                    self._waiting[id(result)] = result, convolution.norm
                return result
        result = func(*args, **kwargs)
        if self._waiting and _has_tensor(result) and any(id(v) in self._waiting for v in _flat((args, tuple(kwargs.values())))):
            raise _Changed("The output of a folded convolution is read by something else than its batch norm")
        return result

    def check_finished(self) -> None:
        """Raise if a folded output never reached its norm."""
        if self._waiting:
            raise _Changed("The output of a folded convolution did not reach its batch norm")

    def _convolve(self, convolution: _Convolution, call: dict[str, Any]) -> Tensor:
        x, weight = call["input"], convolution.weight
        dilation = _one(call["dilation"])
        if (
            self._winograd
            and weight.shape[-2:] == (3, 3)
            and call["groups"] == _one(call["stride"]) == 1
            and dilation is not None
            and dilation == _one(call["padding"])
            and x.dtype == torch.float32
            and winograd_pays(weight.shape[1], weight.shape[0], x.shape[-2], x.shape[-1], dilation)
        ):
            scale, bias = convolution.scale_and_bias()
            scale = None if scale is None else scale.to(weight.dtype)
            return winograd_conv2d(x, weight, bias, dilation=dilation, scale=scale, workspace=self._workspace)
        return F.conv2d(x, *convolution.folded(), call["stride"], call["padding"], call["dilation"], call["groups"])


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
