"""3x3 convolutions of stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3), exact but for rounding.

A tile of 6 x 6 inputs gives 4 x 4 outputs with 36 products a pair of channels in place of 144. A convolution of dilation d is d x d
undilated ones on interleaved grids, so one strided view of the padded map has the tiles of every grid.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), with the points 0, 1, -1, 2,
-2 and infinity.
"""

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
    """Memory that convolutions use one after the other: the system takes its time to give so much of it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def empty(self, use: str, *shape: int) -> Tensor:
        """Float32 of that shape; what the use had before is lost."""
        size = math.prod(shape)
        if use not in self._buffers or self._buffers[use].numel() < size:
            self._buffers.pop(use, None)  # the old one goes before the new one comes
            self._buffers[use] = torch.empty(size)
        return self._buffers[use][:size].view(shape)


class WinogradConvolution:
    """A convolution of stride 1 whose padding keeps the size of the map; it holds no more than its arguments.

    The weights are transformed in each call: kept, they would take four times the space, and it costs little beside the products.

    Args:
        weight: (O, C, 3, 3) float32 on the CPU, best in channels_last.
        bias: (O,) or None.
        dilation: Pixels between the taps, the same in rows and columns; also the padding.
        scale: (O,) that the result is multiplied by before the bias is added; None for nothing, and where there is no bias.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dilation: int = 1, scale: Tensor | None = None) -> None:
        self.weight = weight.detach().permute(0, 2, 3, 1).flatten(1, 2)  # (O, 9, C)
        self.bias = bias
        self.scale = scale
        self.dilation = dilation
        self._taps, self._input, self._output = transforms(weight)

    def __call__(self, x: Tensor, workspace: Workspace | None = None) -> Tensor:
        """(N, C, H, W) to (N, O, H, W), any H and W of at least 1; both are best, and the result is, in channels_last."""
        workspace = workspace or Workspace()
        count, channels, height, width = x.shape
        outputs = len(self.weight)
        d = self.dilation
        down, across = -(-height // (4 * d)), -(-width // (4 * d))  # tiles of one grid
        padded = x.new_zeros(count, (4 * down + 2) * d, (4 * across + 2) * d, channels)
        padded[:, d : d + height, d : d + width] = x.permute(0, 2, 3, 1)
        out = x.new_empty(count, 4 * d * down, 4 * d * across, outputs)
        tiles, results = _tiles(padded, d, down, across, 6), _tiles(out, d, down, across, 4)
        weight = workspace.empty("weight", outputs, 36, channels)
        torch.bmm(self._taps.expand(outputs, 36, 9), self.weight, out=weight)
        rows = max(_TILE_CHANNELS_AT_ONCE // (channels * d * d * across), 1)
        for image in range(count):
            for first in range(0, down, rows):
                part = slice(first, first + rows)
                results[image, part] = self._products(tiles[image, part], weight, workspace).view(results[image, part].shape)
        out = out[:, :height, :width].permute(0, 3, 1, 2)
        if self.bias is None:
            return out
        bias = self.bias[:, None, None]
        return out.add_(bias) if self.scale is None else torch.addcmul(bias, out, self.scale[:, None, None], out=out)

    def _products(self, tiles: Tensor, weight: Tensor, workspace: Workspace) -> Tensor:
        """(..., 6, 6, C) to (P, 16, O), for the P tiles of the leading dimensions; it is lost with the next."""
        outputs, _, channels = weight.shape
        count = math.prod(tiles.shape[:-3])
        values = workspace.empty("values", count, 36, channels)
        torch.bmm(self._input.expand(count, 36, 36), tiles.reshape(count, 36, channels), out=values)
        products = workspace.empty("products", 36, count, outputs)
        torch.bmm(values.transpose(0, 1), weight.permute(1, 2, 0), out=products)
        found = workspace.empty("found", count, 16, outputs)
        return torch.bmm(self._output.expand(count, 16, 36), products.transpose(0, 1), out=found)


def transforms(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a kernel's 9 taps to 36, of a tile's 36 inputs, and of 36 products to 16 outputs: (36, 9), (36, 36) and (16, 36)."""
    taps, inputs, outputs = (torch.tensor(matrix, dtype=torch.float64) for matrix in (_WEIGHT, _INPUT, _OUTPUT))
    # a transform of one axis as the transform of a flattened square
    return torch.kron(taps, taps).div(24**2).to(like), torch.kron(inputs, inputs).to(like), torch.kron(outputs, outputs).to(like)


def _tiles(x: Tensor, dilation: int, down: int, across: int, side: int) -> Tensor:
    """Contiguous (N, H, W, C) as (N, down, d, d, across, side, side, C): tiles every 4 pixels of each of the d x d grids."""
    image, row, column, _ = x.stride()
    d = dilation
    size = (x.shape[0], down, d, d, across, side, side, x.shape[3])
    return x.as_strided(size, (image, 4 * d * row, row, column, 4 * d * column, d * row, d * column, 1))
