"""Strides beyond the wanted one become dilation, measured on the network itself.

The rule ("a trous"): an operation whose input has the stride r >= s gets stride 1 and dilation r / s. The pretrained network is
then evaluated densely: of a feature whose stride was k * s, `dilated(x)[..., ::k, ::k] == original(x)`. First blocks,
shortcuts and parallel branches come out right without knowing the architecture, because r is read off a forward pass. State-dict
keys never change.

timm's own `output_stride` is not used: it leaves average pools and blurs undilated and shifts the grid of 'same' padding.
Source: Chen et al. 2017, "Rethinking Atrous Convolution", section 3.1 (arXiv 1706.05587).

Published checkpoints were trained under other rules too. A state dict does not tell them apart, and the wrong one gives wrong
answers without an error, so they are named: see `pspnet_zoo.zoo.policies`.
"""

import math
import re
from typing import Any

import torch
from timm.layers import BlurPool2d
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..zoo.policies import Dilation, ShortcutPool
from .dilated_layers import CONVOLUTIONS, Taps, dilated_equivalent, pads_as_same

_PROBE = 512  # pixels; a multiple of every stride, and large beside the margin that convolutions without padding cut off
_OPERATIONS = (*CONVOLUTIONS, nn.AvgPool2d, nn.MaxPool2d, BlurPool2d)


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
        The sides that an input may have: multiples of the first number, where operations cut off what their stride does not
        divide, and at least the second, where they cut off a margin. In pixels; 1 for any side.

    Raises:
        ValueError: If an operation cannot be dilated, with its name; or the policy is one for other networks.
    """
    if policy == "first_convolutions" and not any(isinstance(m, BasicBlock) for m in net.modules()):
        raise ValueError("dilation 'first_convolutions' is a rule for ResNets of basic blocks, such as resnet18")
    if policy == "first_blocks" and not any(_BLOCK.match(name) for name, _ in net.named_modules()):
        raise ValueError("dilation 'first_blocks' is a rule for MobileNetV2 and its relatives, such as mobilenetv2_100")
    sizes = input_sizes(net, in_channels)
    strides = {name: _stride(size) for name, size in sizes.items()}
    windows = [Taps.of(net.get_submodule(name)) for name, r in strides.items() if r < output_stride]
    patches = next(iter(strides.values())) > 1  # pixels are rearranged before the first operation
    for name, stride in strides.items():
        operation = net.get_submodule(name)
        if stride < output_stride and pads_as_same(operation) and isinstance(operation, CONVOLUTIONS):
            net.set_submodule(name, dilated_equivalent(name, operation, 1, "strided"))  # as it is, but for how padding is computed
        if stride < output_stride or _is_pointwise(operation) or _stays(net, name, policy):
            continue
        if isinstance(operation, nn.AvgPool2d) and shortcut_pool == "identity":
            dense = nn.Identity()
        else:
            dense = dilated_equivalent(name, operation, stride // output_stride, policy)
        net.set_submodule(name, dense)
    cuts_off_margin = any(size * strides[name] < _PROBE for name, size in sizes.items())
    return (
        output_stride if patches or any(w.cuts_off_remainder for w in windows) else 1,
        _PROBE // 4 if cuts_off_margin else 1,
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
        run_without_data(net, in_channels)
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def input_strides(net: nn.Module, in_channels: int) -> dict[str, int]:
    """Pixels per step of the input of every convolution, pool and blur, by module name."""
    return {name: _stride(size) for name, size in input_sizes(net, in_channels).items()}


def _stride(size: int) -> int:
    return 2 ** round(math.log2(_PROBE / size))


def run_without_data(net: nn.Module, in_channels: int) -> None:
    """Run one forward without data, for the hooks that are on `net`.

    Raises:
        ValueError: If `net` does not take such an image.
    """
    was_training = net.training
    tensors = {name: t.to("meta") for name, t in [*net.named_parameters(), *net.named_buffers()]}
    image = torch.empty(1, in_channels, _PROBE, _PROBE, device="meta", dtype=next(net.parameters()).dtype)
    try:
        with torch.no_grad(), _WithoutBatchNorms():
            torch.func.functional_call(net.eval(), tensors, image)
    except Exception as error:  # whatever comes first in timm
        raise ValueError(f"The strides cannot be measured: the network does not take {_PROBE}x{_PROBE} pixels. {error}") from error
    finally:
        net.train(was_training)


class _WithoutBatchNorms(TorchFunctionMode):
    """Leaves out what keeps the size and takes torch nine tenths of a forward without data."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is F.batch_norm else func(*args, **(kwargs or {}))


def _is_pointwise(operation: Any) -> bool:
    return isinstance(operation, CONVOLUTIONS) and operation.kernel_size == (1, 1) and operation.stride == (1, 1)


_BLOCK = re.compile(r"blocks\.\d+\.(\d+)\b")  # timm's name of a block of an efficientnet, with its index in the stage


def _stays(net: nn.Module, name: str, policy: Dilation) -> bool:
    """Whether this operation keeps its dilation, an exception of the policy."""
    if policy == "first_convolutions":
        block, _, layer = name.rpartition(".")
        return layer == "conv2" and isinstance(net.get_submodule(block), BasicBlock)
    if policy == "first_blocks":
        match = _BLOCK.match(name)
        return match is not None and match[1] != "0"
    return policy == "strided" and not isinstance(net.get_submodule(name), CONVOLUTIONS)
