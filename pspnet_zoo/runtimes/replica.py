"""Copies of networks that share the memory of their weights, and how to notice that the network has changed since."""

import copy
from types import FunctionType, MethodType
from typing import Any, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

_COMPARED = frozenset({bool, int, float, str, type(None), FunctionType, MethodType})


def replica(network: Network) -> Network:
    """A copy in evaluation mode whose parameters, buffers and other tensors are views of the network's memory.

    Modes, moves and conversions of one do not reach the other; weights that are written in place do.
    """
    memo: dict[int, Any] = {}
    for module in network.modules():
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(value, nn.Parameter):
                memo[id(value)] = nn.Parameter(value.detach(), requires_grad=False)
            elif isinstance(value, Tensor):
                memo[id(value)] = value.detach()
    return copy.deepcopy(network, memo).eval()


def fingerprint(network: nn.Module, *, values: bool = False) -> list[Any]:
    """Everything in which a replica can differ from the network: modules, hooks, numbers, texts, functions, places of tensors.

    Args:
        network: Its training mode does not count.
        values: Whether tensors that were changed in place count too; changes through `.data` cannot be noticed.

    Returns:
        A list to compare with a later one; the two are equal if nothing was changed.
    """
    found: list[Any] = []
    for module in network.modules():
        found.append(module)
        for name, value in vars(module).items():
            items = value if type(value) is tuple else (value,)
            if name != "training" and all(type(item) in _COMPARED for item in items):
                found.append(value)
            elif isinstance(value, dict) and name.endswith("_hooks"):
                found.extend(value.values())
    for tensor in (*network.parameters(), *network.buffers()):
        found.append((tensor.data_ptr(), tensor.dtype, tensor.shape))
        if values and not tensor.is_inference():
            found.append(tensor._version)
    return found
