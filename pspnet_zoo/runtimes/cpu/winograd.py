"""3x3 convolutions of stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3), exact but for rounding.

A tile of 6 x 6 inputs gives 4 x 4 outputs with 36 products for each pair of channels instead of 144. A convolution of dilation d is
d x d undilated ones on interleaved grids, so one strided view of the padded feature map has the tiles of every grid.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), with the points 0, 1, -1, 2,
-2 and infinity.
"""

import functools
import math

import torch
from torch import Tensor

_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_WEIGHT = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # over 24
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

_TILE_CHANNELS_AT_ONCE = 2**17  # bounds the memory of transformed tiles; fewer would read the weights too often


class Workspace:
    """Memory that convolutions reuse, since allocating so much of it is slow. Not for several threads at a time."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def empty(self, use: str, *shape: int) -> Tensor:
        """A float32 tensor of that shape, which replaces the last one of the same use."""
        size = math.prod(shape)
        if use not in self._buffers or self._buffers[use].numel() < size:
            self._buffers.pop(use, None)  # the old one goes before the new one comes
            with torch.inference_mode(False):  # such a tensor can be written in and out of that mode
                self._buffers[use] = torch.empty(size)
        return self._buffers[use][:size].view(shape)


def winograd_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    scale: Tensor | None = None,
    workspace: Workspace | None = None,
) -> Tensor:
    """Compute a 3x3 convolution of stride 1 whose padding is its dilation.

    The weights are transformed in each call: kept, they would take four times the memory, and it costs little beside the products.

    Args:
        x: (N, C, H, W) float32 on the CPU, any H and W of at least 1, best in channels_last.
        weight: (O, C, 3, 3).
        bias: (O,) or None.
        dilation: Distance of the taps in rows and columns, in pixels; also the padding.
        scale: (O,) that multiplies the result before the bias is added; only with a bias.
        workspace: Memory to use; None for new memory.

    Returns:
        (N, O, H, W) in channels_last.
    """
    workspace = workspace or Workspace()
    count, channels, height, width = x.shape
    outputs, d = len(weight), dilation
    for_taps, for_inputs, for_outputs = transforms()
    down, across = -(-height // (4 * d)), -(-width // (4 * d))  # tiles of one grid
    padded = x.new_zeros(count, (4 * down + 2) * d, (4 * across + 2) * d, channels)
    padded[:, d : d + height, d : d + width] = x.permute(0, 2, 3, 1)
    out = x.new_empty(count, 4 * d * down, 4 * d * across, outputs)
    tiles, results = _tiles(padded, d, down, across, 6), _tiles(out, d, down, across, 4)
    taps = workspace.empty("taps", outputs, 36, channels)
    torch.bmm(for_taps.expand(outputs, 36, 9), weight.flatten(2).transpose(1, 2), out=taps)
    rows = max(_TILE_CHANNELS_AT_ONCE // (channels * d * d * across), 1)
    for image in range(count):
        for first in range(0, down, rows):
            some, target = tiles[image, first : first + rows], results[image, first : first + rows]
            size = math.prod(some.shape[:-3])
            values = workspace.empty("values", size, 36, channels)
            torch.bmm(for_inputs.expand(size, 36, 36), some.reshape(size, 36, channels), out=values)
            products = workspace.empty("products", 36, size, outputs)
            torch.bmm(values.transpose(0, 1), taps.permute(1, 2, 0), out=products)
            found = workspace.empty("found", size, 16, outputs)
            target.copy_(torch.bmm(for_outputs.expand(size, 16, 36), products.transpose(0, 1), out=found).view(target.shape))
    out = out[:, :height, :width].permute(0, 3, 1, 2)
    if bias is None:
        return out
    bias = bias[:, None, None]
    return out.add_(bias) if scale is None else torch.addcmul(bias, out, scale[:, None, None], out=out)


@functools.cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """The float32 matrices for a kernel's 9 taps, a tile's 36 inputs and its 36 products: (36, 9), (36, 36) and (16, 36)."""
    taps, inputs, outputs = (torch.tensor(matrix, dtype=torch.float64) for matrix in (_WEIGHT, _INPUT, _OUTPUT))
    # a transform of one axis as the transform of a flattened square
    return torch.kron(taps, taps).div(24**2).float(), torch.kron(inputs, inputs).float(), torch.kron(outputs, outputs).float()


def _tiles(x: Tensor, dilation: int, down: int, across: int, side: int) -> Tensor:
    """View contiguous (N, H, W, C) as tiles every 4 pixels of each of d x d grids: (N, down, d, d, across, side, side, C)."""
    image, row, column, _ = x.stride()
    d = dilation
    size = (x.shape[0], down, d, d, across, side, side, x.shape[3])
    return x.as_strided(size, (image, 4 * d * row, row, column, 4 * d * column, d * row, d * column, 1))
