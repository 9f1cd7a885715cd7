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

import re
from functools import reduce
from typing import Any, Literal

import torch
from timm.layers import BlurPool2d, CondConv2d, Conv2dSame
from timm.layers.padding import get_same_padding
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F

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

_PROBE = 256  # pixels; a multiple of every stride, so that sizes divide exactly
_CONVOLUTIONS = (nn.Conv2d, CondConv2d)
_OPERATIONS = (*_CONVOLUTIONS, nn.AvgPool2d, nn.MaxPool2d, BlurPool2d)


def dilate(
    net: nn.Module,
    *,
    in_channels: int,
    output_stride: int,
    policy: Dilation = "atrous",
    shortcut_pool: ShortcutPool = "dilated",
) -> None:
    """Bound the stride of every feature of `net`, in place, by replacing later strides with dilation.

    Args:
        net: Maps (N, in_channels, H, W) to features.
        in_channels: Channels of its input.
        output_stride: The largest stride that stays, in pixels.
        policy: What happens to convolutions, see `Dilation`. "strided" leaves every stride.
        shortcut_pool: What happens to average pools, see `ShortcutPool`.

    Raises:
        ValueError: If an operation cannot be dilated, with its name; or the policy is one for other networks.
    """
    if policy == "first_convolutions" and not any(isinstance(m, BasicBlock) for m in net.modules()):
        raise ValueError("dilation 'first_convolutions' is a rule for ResNets of basic blocks, such as resnet18")
    if policy == "first_blocks" and not any(_BLOCK.match(name) for name, _ in net.named_modules()):
        raise ValueError("dilation 'first_blocks' is a rule for MobileNetV2 and its relatives, such as mobilenetv2_100")
    for name, stride in input_strides(net, in_channels).items():
        operation = net.get_submodule(name)
        if stride < output_stride or _is_pointwise(operation) or _stays(net, name, policy):
            continue
        if isinstance(operation, nn.AvgPool2d) and shortcut_pool == "identity":
            dense = nn.Identity()
        else:
            dense = _dense(name, operation, stride // output_stride, policy)
        net.set_submodule(name, dense)


def input_strides(net: nn.Module, in_channels: int) -> dict[str, int]:
    """Pixels per step of the input of every convolution, pool and blur, by module name, read off one forward without data."""
    strides: dict[str, int] = {}

    def record(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            strides[name] = _PROBE // inputs[0].shape[-1]

        return hook

    handles = [m.register_forward_pre_hook(record(n)) for n, m in net.named_modules() if isinstance(m, _OPERATIONS)]
    try:
        probe(net, in_channels)
    finally:
        for handle in handles:
            handle.remove()
    return strides


def probe(net: nn.Module, in_channels: int) -> None:
    """Run one forward without data, for the hooks that are on `net`."""
    was_training = net.training
    tensors = {name: t.to("meta") for name, t in [*net.named_parameters(), *net.named_buffers()]}
    picture = torch.empty(1, in_channels, _PROBE, _PROBE, device="meta", dtype=next(net.parameters()).dtype)
    try:
        torch.func.functional_call(net.eval(), tensors, picture)
    finally:
        net.train(was_training)


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


def _dense(name: str, operation: Any, rate: int, policy: Dilation) -> nn.Module:
    """The stride-1 twin of an operation, for a map `rate` times denser than the one it was made for."""
    if isinstance(operation, _CONVOLUTIONS):
        return _dense_convolution(name, operation, rate, policy)
    if isinstance(operation, BlurPool2d) and operation.pad_mode in ("reflect", "constant"):
        return _DenseBlur(operation, rate)
    if isinstance(operation, nn.AvgPool2d):
        return _DenseAveragePool(operation, rate)
    raise ValueError(f"'{name}' needs the dilation {rate}, which cannot be given to a {operation}")


def _dense_convolution(name: str, operation: Any, rate: int, policy: Dilation) -> nn.Module:
    stride = operation.stride[0]
    if policy != "strided":
        operation.stride = (1, 1)
    if policy in ("uniform", "first_blocks") and operation.kernel_size[0] > 1:
        rate, stride = rate * stride, 1
    if _pads_as_same(operation):
        padding = _SamePadding(operation.kernel_size, stride, operation.dilation, rate)
        operation = _without_own_padding(operation)
        operation.register_forward_pre_hook(padding)
    elif any(2 * p != d * (k - 1) for p, d, k in zip(operation.padding, operation.dilation, operation.kernel_size, strict=True)):
        raise ValueError(f"'{name}' does not keep the size of its input, and such a convolution cannot be dilated: {operation}")
    operation.padding = tuple(p * rate for p in operation.padding)
    operation.dilation = tuple(d * rate for d in operation.dilation)
    return operation


def _pads_as_same(operation: Any) -> bool:
    return isinstance(operation, Conv2dSame) or getattr(operation, "dynamic_padding", False)


def _without_own_padding(operation: Any) -> Any:
    if hasattr(operation, "dynamic_padding"):  # a CondConv2d
        operation.dynamic_padding = False
        return operation
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


class _SamePadding:
    """Pads as 'same' padding would on the sparse map: it depends on the size there, and is not symmetric."""

    def __init__(self, kernel: tuple[int, int], stride: int, dilation: tuple[int, int], rate: int) -> None:
        self.kernel, self.stride, self.dilation, self.rate = kernel, stride, dilation, rate

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *routing = inputs
        padding = []
        for size, kernel, dilation in zip(x.shape[:-3:-1], self.kernel[::-1], self.dilation[::-1], strict=True):
            sparse_size = (size + self.rate - 1) // self.rate
            before = get_same_padding(sparse_size, kernel, self.stride, dilation) // 2 * self.rate
            padding += [before, (kernel - 1) * dilation * self.rate - before]
        return F.pad(x, padding), *routing


class _DenseAveragePool(nn.Module):
    """Mean over each k x k window, taps `rate` apart: over its part inside the map, and the zeros around it where those count."""

    def __init__(self, pool: nn.AvgPool2d, rate: int) -> None:
        super().__init__()
        self.kernel_size, self.padding = ((v,) * 2 if isinstance(v, int) else v for v in (pool.kernel_size, pool.padding))
        self.counts_padding = pool.count_include_pad and any(self.padding)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        total = self._window_sum(x)
        if self.counts_padding:
            return total / (self.kernel_size[0] * self.kernel_size[1])
        return total / self._window_sum(torch.ones_like(x[:1, :1]))

    def _window_sum(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = ([i * self.rate for i in range(k)] for k in self.kernel_size)
        top, left = (p * self.rate for p in self.padding)
        padded = F.pad(x, (left, columns[-1] - left, top, rows[-1] - top))
        return reduce(torch.add, (padded[..., i : i + height, j : j + width] for i in rows for j in columns))


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
