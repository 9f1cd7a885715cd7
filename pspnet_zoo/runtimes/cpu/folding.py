"""The same network in less time on a CPU: batch norms folded into convolutions, wide 3x3 convolutions by Winograd's algorithm.

Nothing of the network is changed. What can be folded is found by running it once: a batch norm whose input is the output of a
convolution and is read by nothing else, each of the two called once. While the accelerated network runs, its calls of `conv2d` and
`batch_norm` are answered with prepared tensors: this goes by what a network does, and not by what its layers are called.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .winograd import WinogradConvolution, Workspace

_SAMPLE = 128  # pixels a side, at most, of the image that is watched on its way
WIDE = 256
"""Channels, in and out, from which on Winograd's algorithm pays."""
_Key = tuple[int, torch.Size, tuple[int, ...]]


class Accelerated:
    """Calls a network as before; what it needs is prepared in the first call, and anew after weights have changed.

    Args:
        network: In evaluation mode, with float32 weights on the CPU.
        winograd: False folds batch norms only.
    """

    def __init__(self, network: nn.Module, *, winograd: bool = True) -> None:
        self.network = network
        self.winograd = winograd
        self._calls: dict[_Key, _Convolution] = {}
        self._versions: list[tuple[int, int]] = []

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Any:
        """What the network gives for x, (N, C, H, W)."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        versions = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        if versions != self._versions:
            with _Record(tensors) as record:
                self.network(x[:1, :, :_SAMPLE, :_SAMPLE])
            self._calls, self._versions = record.folded(), versions
        with _Replay(self._calls, self.winograd):
            return self.network(x)


def winograd_pays(in_channels: int, out_channels: int, height: int, width: int, dilation: int) -> bool:
    """Whether Winograd's algorithm is the faster one for a 3x3 convolution; measured by `benchmarks/winograd.py`.

    Products fall to a quarter, but the transforms go over the maps several times, which narrow layers do not earn back; and tiles
    that reach over the edge of a small map are computed for nothing.
    """
    tiles = -(-height // (4 * dilation)) * -(-width // (4 * dilation)) * dilation**2
    return min(in_channels, out_channels) >= WIDE and tiles >= 64 and 16 * tiles <= 1.5 * height * width


@dataclass
class _Convolution:
    """A convolution of the network, with the batch norm after it folded in where there is one; tensors are made when needed."""

    weight: Tensor
    bias: Tensor | None
    norm: _Key | None = None
    scale: Tensor | None = None
    """(O,) float64, of the norm."""
    shift: Tensor | None = None
    """(O,) float64, of the norm."""
    _direct: tuple[Tensor, Tensor | None] | None = None
    _winograd: dict[int, WinogradConvolution] = field(default_factory=dict)

    def fold(self, norm: _Key, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        """Take in the batch norm with these arguments."""
        scale = (var.double() + eps).rsqrt() * (1 if weight is None else weight.double())
        shift = (0 if bias is None else bias.double()) - mean.double() * scale
        self.norm, self.scale, self.shift = norm, scale, shift

    def direct(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the folded convolution."""
        if self._direct is None:
            self._direct = self._folded()
        return self._direct

    def winograd(self, dilation: int) -> WinogradConvolution:
        """The folded convolution for that dilation."""
        if dilation not in self._winograd:
            bias = self._bias()
            scale = None if self.scale is None else self.scale.to(self.weight.dtype)
            self._winograd[dilation] = WinogradConvolution(self.weight, bias, dilation, scale)
        return self._winograd[dilation]

    def _folded(self) -> tuple[Tensor, Tensor | None]:
        if self.scale is None:
            return self.weight, self.bias
        weight = (self.weight * self.scale[:, None, None, None]).to(self.weight.dtype)
        return weight.contiguous(memory_format=torch.channels_last), self._bias()

    def _bias(self) -> Tensor | None:
        if self.scale is None or self.shift is None:
            return self.bias
        bias = self.shift if self.bias is None else self.shift + self.bias.double() * self.scale
        return bias.to(self.weight.dtype)


class _Record(TorchFunctionMode):
    """Watches one forward: its convolutions, and what reads their outputs."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self._lasting = {t.untyped_storage().data_ptr() for t in tensors}
        self._convolutions: dict[_Key, _Convolution] = {}
        self._times: Counter[_Key] = Counter()
        self._outputs: dict[int, tuple[_Key, Tensor]] = {}  # tensors are kept, since ids of others would be given again
        self._readers: Counter[_Key] = Counter()
        self._norms: list[tuple[_Key, _Key, dict[str, Any]]] = []

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
                    self._norms.append((norm, self._outputs[id(call["input"])][0], call))
        return result

    def folded(self) -> dict[_Key, _Convolution]:
        """Every convolution that is called once, by its weight."""
        for norm, convolution, call in self._norms:
            if self._times[norm] == self._times[convolution] == self._readers[convolution] == 1:
                arguments = ("running_mean", "running_var", "weight", "bias", "eps")
                self._convolutions[convolution].fold(norm, *(_detached(call[name]) for name in arguments))
        return {key: c for key, c in self._convolutions.items() if self._times[key] == 1}


class _Replay(TorchFunctionMode):
    """Answers convolutions with folded ones, and leaves out the norms that are in them."""

    def __init__(self, calls: dict[_Key, _Convolution], winograd: bool) -> None:
        super().__init__()
        self._calls = calls
        self._winograd = winograd
        self._workspace = Workspace()
        self._done: dict[_Key, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d:
            call = _named(_CONV2D, args, kwargs)
            convolution = self._calls.get(_key(call["weight"]))
            if convolution is not None:
                result = self._convolve(convolution, call)
                if convolution.norm is not None:
                    self._done[convolution.norm] = result
                return result
        elif func is F.batch_norm:
            call = _named(_BATCH_NORM, args, kwargs)
            if call["running_mean"] is not None and self._done.pop(_key(call["running_mean"]), None) is call["input"]:
                return call["input"]
        return func(*args, **kwargs)

    def _convolve(self, convolution: _Convolution, call: dict[str, Any]) -> Tensor:
        x, weight = call["input"], call["weight"]
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
            return convolution.winograd(dilation)(x, self._workspace)
        return F.conv2d(x, *convolution.direct(), call["stride"], call["padding"], call["dilation"], call["groups"])


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
    """Which memory a tensor is: of a parameter, or of a view that is made anew in each forward."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _one(value: Any) -> int | None:
    """The number that stands for both axes; None if there is none."""
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
