"""Pyramid pooling and its fusing convolution, in factored form.

Source: Zhao et al. 2017, "Pyramid Scene Parsing Network", section 3.2 (arXiv 1612.01105).

The textbook pools x to b x b regions for each bin b, applies a 1x1 convolution, resizes the regions to the size of x, concatenates
everything and runs a 3x3 convolution over it. That convolution is linear in each part, and resizing is separable:
up(P) = U P V^T with U (H, b) and V (W, b). For the tap (k, l) of the 3x3 kernel,

    conv(W, up(P)) = sum_kl  S_k U (W_kl P) (S_l V)^T,    S_k = shift by k - 1 rows, zero fill.

So the weights act on the 50 regions instead of on H x W positions, and the wide concatenation never exists: the same numbers for
about half the work. Pooling, a matrix product of the same kind, reads x once and exports at any size.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """Context of the whole image, at four scales, fused into every position.

    Args:
        in_channels: Channels of x.
        out_channels: Channels of the fused map.
        norm: Makes the normalisation layer for a number of channels; None for none (the convolutions then have a bias).
        bin_channels: Channels of each bin; None for in_channels divided by the number of bins.
        bins: Regions a side of each pooling, in the order in which the fusing convolution reads them, after x.
        align_corners: How regions are resized: True puts the outer regions on the corners.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Callable[[int], nn.Module] | None,
        bin_channels: int | None = None,
        bins: Sequence[int] = BINS,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.align_corners = align_corners
        self.width = width = bin_channels or max(in_channels // len(self.bins), 1)
        self.branches = nn.ModuleList(conv_norm_relu(in_channels, width, 1, norm) for _ in self.bins)
        self.fuse = conv_norm_relu(in_channels + width * len(self.bins), out_channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W), any H and W of at least 1."""
        height, width = x.shape[-2:]
        pool_rows = torch.cat([pooling_matrix(b, height, x) for b in self.bins])  # (12, H)
        pool_columns = torch.cat([pooling_matrix(b, width, x) for b in self.bins])  # (12, W)
        pooled = pool(x, pool_rows, pool_columns)  # (N, C, 12, 12): each bin is a block of the diagonal

        convolution: Any
        convolution, *after = self.fuse
        weight, *bin_weights = convolution.weight.split([x.shape[1], *[self.width] * len(self.bins)], dim=1)
        fused = F.conv2d(x, weight, convolution.bias, padding=1)

        left, right = [], []
        start = 0
        for b, branch, bin_weight in zip(self.bins, self.branches, bin_weights, strict=True):
            regions = branch(pooled[..., start : start + b, start : start + b])  # (N, width, b, b)
            start += b
            taps = torch.einsum("ockl,ncij->nokilj", bin_weight, regions)  # each tap of the kernel on each region
            taps = taps.flatten(4, 5).flatten(2, 3)  # (N, out, 3b, 3b)
            right.append(taps @ shifted_resize_matrix(b, width, self.align_corners, x).T)  # (N, out, 3b, W)
            left.append(shifted_resize_matrix(b, height, self.align_corners, x))  # (H, 3b)
        fused = fused + torch.cat(left, dim=1) @ torch.cat(right, dim=2)
        for layer in after:
            fused = layer(fused)
        return fused


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains on a single value per channel, with the running statistics.

    The 1x1 bin of a batch of one holds one value per channel, which has no variance: torch refuses it. The norm is part of the
    published network, so it stays, and such a batch is normalised as in evaluation.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            if not torch.compiler.is_compiling():
                warnings.warn(
                    "A training batch of one has one value per channel in the 1x1 bin, which has no variance: this layer uses its "
                    "running statistics. Train with at least two images per device to update them.",
                    stacklevel=2,
                )
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, norm: Callable[[int], nn.Module] | None) -> nn.Sequential:
    """A size-keeping convolution, its norm and a ReLU; without a norm the convolution has a bias."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=norm is None)
    return nn.Sequential(convolution, nn.Identity() if norm is None else norm(out_channels), nn.ReLU(inplace=True))


def pool(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute rows @ x @ columns.T, in the order in which x lies in memory.

    Args:
        x: (N, C, H, W).
        rows: (R, H).
        columns: (S, W).

    Returns:
        (N, C, R, S).
    """
    if torch.compiler.is_compiling():
        # x is the first factor: OpenVINO reads the second in the int8 of weights, and then runs the fusion of x in float32
        return rows @ (x @ columns.T)
    if x.is_contiguous():
        return rows @ x @ columns.T
    # in channels_last, products of single channels would gather them first: 15 times the time on CPUs
    some = (rows @ x.permute(0, 2, 3, 1).flatten(2)).unflatten(2, (-1, x.shape[1]))  # (N, R, W, C)
    return (columns @ some).permute(0, 3, 1, 2)


def pooling_matrix(regions: int, size: int, like: Tensor) -> Tensor:
    """(regions, size) weights of adaptive average pooling.

    Region i averages the positions floor(i * size / regions) up to ceil((i + 1) * size / regions).
    """
    region = torch.arange(regions, device=like.device)[:, None]
    position = torch.arange(size, device=like.device)
    start = region * size // regions
    end = ((region + 1) * size + regions - 1) // regions
    inside = (position >= start) & (position < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


def resize_matrix(regions: int, size: int, align_corners: bool, like: Tensor) -> Tensor:
    """(size, regions) weights of bilinear resizing along one axis, as torch's interpolate has them."""
    index = torch.arange(size, device=like.device, dtype=torch.float32)
    if align_corners:
        position = index * (regions - 1) / index[-1:].clamp(min=1)
    else:
        position = ((index + 0.5) * (regions / size) - 0.5).clamp(0, regions - 1)
    distance = position[:, None] - torch.arange(regions, device=like.device)
    return (1 - distance.abs()).clamp(min=0).to(like.dtype)


def shifted_resize_matrix(regions: int, size: int, align_corners: bool, like: Tensor) -> Tensor:
    """(size, 3 * regions): the resize matrix as the three taps of a zero-padded convolution see it, one after the other."""
    padded = F.pad(resize_matrix(regions, size, align_corners, like), (0, 0, 1, 1))
    return torch.cat([padded[:-2], padded[1:-1], padded[2:]], dim=1)
