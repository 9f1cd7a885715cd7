"""The calls of one forward of a network: its convolutions, and what follows each so that the two can be computed as one."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Key = tuple[int, torch.Size, tuple[int, ...]]

CONV2D = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
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


def adds_two(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call adds two tensors."""
    return func in _SUMS and len(args) == 2 and not kwargs and all(isinstance(value, Tensor) for value in args)


def named(defaults: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    return {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}


def key_of(tensor: Tensor) -> Key:
    """The memory that a tensor is a view of; the same for views that each forward makes anew."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


@dataclass(frozen=True)
class NormCall:
    """The batch norm that follows a convolution; its tensors share the memory of the network's."""

    tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
    """Running mean, running variance, weight and bias."""
    eps: float

    @classmethod
    def of(cls, call: dict[str, Any]) -> "NormCall":
        """The norm that a call of `batch_norm` computes."""
        mean, var, weight, bias = (_detached(call[name]) for name in ("running_mean", "running_var", "weight", "bias"))
        return cls((mean, var, weight, bias), call["eps"])

    def is_called_by(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call computes this norm, with running statistics."""
        if func is not F.batch_norm:
            return False
        call = named(_BATCH_NORM, args, kwargs)
        own, other = ([None if t is None else key_of(t) for t in norm.tensors] for norm in (self, NormCall.of(call)))
        return own == other and self.eps == call["eps"] and not call["training"]

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(O,) float64 each: the norm of y is y * scale + shift."""
        mean, var, weight, bias = self.tensors
        scale = (var.double() + self.eps).rsqrt() * (1 if weight is None else weight.double())
        return scale, (0 if bias is None else bias.double()) - mean.double() * scale


@dataclass(frozen=True)
class ActivationCall:
    """The activation that follows a convolution, its norm or its sum."""

    func: Callable[..., Tensor]
    settings: dict[str, Any]
    """Its other arguments than the input."""

    @classmethod
    def of(cls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "ActivationCall | None":
        """The activation that a call computes; None for another call."""
        return cls(func, named(_ACTIVATIONS[func], args[1:], kwargs)) if func in _ACTIVATIONS else None

    def is_called_by(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call computes this activation."""
        return self == ActivationCall.of(func, args, kwargs)

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
class SumCall:
    """The addition of another tensor to the output of a convolution or its norm."""

    activation: ActivationCall | None = None
    """That of the sum."""


@dataclass
class ConvolutionCall:
    """A convolution of the network, with what follows it where that can be folded."""

    weight: Tensor
    bias: Tensor | None
    norm: NormCall | None = None
    sum: SumCall | None = None
    activation: ActivationCall | None = None
    _folded: tuple[Tensor, Tensor, Tensor] | None = None
    """The weight and scale that were folded, and the result; replaced as a whole, so that threads never see parts of two."""

    @property
    def followers(self) -> list[NormCall | ActivationCall]:
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
        """Weight and bias of the convolution and its norm in one.

        Raises:
            FloatingPointError: If they are NaN or infinite.
        """
        scale, bias = self.scale_and_bias()
        if scale is None:
            return self.weight, bias
        if self._folded is None or not (_same(self._folded[0], self.weight) and _same(self._folded[1], scale)):
            folded = (self.weight * scale[:, None, None, None]).to(self.weight.dtype)
            check_finite(folded, bias)
            self._folded = self.weight.clone(), scale, folded.contiguous(memory_format=torch.channels_last)
        return self._folded[2], bias


class CallRecorder(TorchFunctionMode):
    """Records the convolutions of one forward and what reads their outputs."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self._lasting = {t.untyped_storage().data_ptr() for t in tensors}
        self._convolutions: dict[Key, ConvolutionCall] = {}
        self._times: Counter[Key] = Counter()
        self._outputs: dict[int, tuple[Key, Tensor]] = {}  # tensors are kept so that no other gets their id
        self._readers: Counter[Key] = Counter()
        self._norms: list[tuple[Key, Key, NormCall]] = []
        self._activations: list[tuple[Key, ActivationCall]] = []
        self._sums: dict[Key, tuple[Key, Tensor]] = {}  # the producer, and what is added to it
        self._read_again: set[int] = set()  # memory of what was added

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        values = flat((args, tuple(kwargs.values())))
        if has_tensor(result):
            for value in values:
                if id(value) in self._outputs:
                    self._readers[self._outputs[id(value)][0]] += 1
        self._note_reading(values)
        if func is F.conv2d:
            call = named(CONV2D, args, kwargs)
            if call["weight"].untyped_storage().data_ptr() in self._lasting:  # else it is computed in each forward
                key = key_of(call["weight"])
                self._convolutions[key] = ConvolutionCall(call["weight"].detach(), _detached(call["bias"]))
                self._times[key] += 1
                self._outputs[id(result)] = key, result
        elif func is F.batch_norm:
            call = named(_BATCH_NORM, args, kwargs)
            if call["running_mean"] is not None:
                norm = key_of(call["running_mean"])
                self._times[norm] += 1
                if id(call["input"]) in self._outputs and not call["training"]:
                    self._norms.append((norm, self._outputs[id(call["input"])][0], NormCall.of(call)))
                    self._outputs[id(result)] = norm, result
        elif (activation := ActivationCall.of(func, args, kwargs)) is not None and args and id(args[0]) in self._outputs:
            # in place, the result is the same tensor, whose next readers are the activation's
            producer, _ = self._outputs.pop(id(args[0])) if result is args[0] else self._outputs[id(args[0])]
            self._activations.append((producer, activation))
        elif adds_two(func, args, kwargs):
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

    def folded(self, output: Any) -> dict[Key, ConvolutionCall]:
        """Every convolution that is called once, by its weight.

        Args:
            output: Of the recorded forward.

        Raises:
            FloatingPointError: If a weight is NaN or infinite.
        """
        self._note_reading(flat(output))
        last = {key: key for key in self._convolutions}  # the convolution whose output, or norm's output, it is
        for key, convolution, norm in self._norms:
            is_alone = self._times[key] == self._times[convolution] == self._readers[convolution] == 1
            if convolution in self._convolutions and is_alone:  # and not a sum
                self._convolutions[convolution].norm = norm
                last[key] = convolution
        for key, (producer, other) in self._sums.items():
            is_free = other.untyped_storage().data_ptr() not in self._read_again
            if producer in last and self._times[producer] == self._readers[producer] == 1 and is_free:
                self._convolutions[last[producer]].sum = SumCall()
                last[key] = last[producer]
        for key, activation in self._activations:
            if key in last and self._times[key] == self._readers[key] == 1:
                if key in self._sums:
                    self._convolutions[last[key]].sum = SumCall(activation)
                else:
                    self._convolutions[last[key]].activation = activation
        once = {key: c for key, c in self._convolutions.items() if self._times[key] == 1}
        for convolution in once.values():
            check_finite(convolution.weight, convolution.bias)
        return once


def check_finite(weight: Tensor, bias: Tensor | None) -> None:
    """Raise a FloatingPointError for weights that are NaN or infinite: a ReLU computed with its convolution makes 0 of NaN."""
    if not all(tensor.isfinite().all() for tensor in (weight, bias) if tensor is not None):
        raise FloatingPointError("Weights of the model are NaN or infinite: they are damaged. Copy or train them again")


def flat(values: Any) -> list[Any]:
    """The leaves of nested tuples and lists; another value is its own leaf."""
    if isinstance(values, tuple | list):
        return [leaf for value in values for leaf in flat(value)]
    return [values]


def has_tensor(result: Any) -> bool:
    """Whether a value is a tensor, or a tuple or list with one."""
    return any(isinstance(value, Tensor) for value in flat(result))


def _detached(tensor: Any) -> Any:
    return tensor.detach() if isinstance(tensor, Tensor) else tensor


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same values; several times faster than torch.equal."""
    return np.array_equal(one.numpy(), other.numpy())
