"""3x3 convolutions of stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3), exact but for rounding.

A tile of 6 x 6 inputs gives 4 x 4 outputs with 36 products a pair of channels in place of 144. A convolution of dilation d is d x d
undilated ones on interleaved grids, so one strided view of the padded map has the tiles of every grid.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), with the points 0, 1, -1, 2,
-2 and infinity.
"""

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

_TILE_CHANNELS_AT_ONCE = 2**19  # bounds the memory of transformed tiles; fewer would read the weights too often
_CHANNELS_AT_ONCE = 64  # bounds the memory of weights in float64


class WinogradConvolution:
    """A convolution of stride 1 whose padding keeps the size of the map.

    Args:
        weight: (O, C, 3, 3) float32.
        bias: (O,) or None.
        dilation: Pixels between the taps, the same in rows and columns; also the padding.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> None:
        out_channels, in_channels = weight.shape[:2]
        transform = _square(_WEIGHT).to(weight.device) / 24**2  # in float64: it is done once
        taps = weight.detach().flatten(2).permute(2, 1, 0)  # (9, C, O)
        self.weight = weight.new_empty(36, in_channels, out_channels)
        for first in range(0, in_channels, _CHANNELS_AT_ONCE):
            part = slice(first, first + _CHANNELS_AT_ONCE)
            self.weight[:, part] = torch.einsum("ij,jco->ico", transform, taps[:, part].double())
        self.bias = bias
        self.dilation = dilation
        self._input, self._output = (_square(m).to(weight) for m in (_INPUT, _OUTPUT))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H, W), any H and W of at least 1; both are best, and the result is, in channels_last."""
        count, _, height, width = x.shape
        d = self.dilation
        down, across = -(-height // (4 * d)), -(-width // (4 * d))  # tiles of one grid
        padded = x.new_zeros(count, (4 * down + 2) * d, (4 * across + 2) * d, x.shape[1])
        padded[:, d : d + height, d : d + width] = x.permute(0, 2, 3, 1)
        out = x.new_empty(count, 4 * d * down, 4 * d * across, self.weight.shape[2])
        tiles, results = _tiles(padded, d, down, across, 6), _tiles(out, d, down, across, 4)
        rows = max(_TILE_CHANNELS_AT_ONCE // (x.shape[1] * d * d * across), 1)
        for picture in range(count):
            for first in range(0, down, rows):
                part = slice(first, first + rows)
                results[picture, part] = self._transformed(tiles[picture, part]).view(results[picture, part].shape)
        out = out[:, :height, :width].permute(0, 3, 1, 2)
        return out if self.bias is None else out.add_(self.bias[:, None, None])

    def _transformed(self, tiles: Tensor) -> Tensor:
        """(..., 6, 6, C) to (P, 16, O), for the P tiles of the leading dimensions."""
        values = self._input @ tiles.reshape(-1, 36, tiles.shape[-1])  # (P, 36, C)
        products = torch.bmm(values.transpose(0, 1), self.weight)  # (36, P, O)
        return self._output @ products.transpose(0, 1)


def _square(matrix: list[list[int]]) -> Tensor:
    """A transform of one axis as the transform of a flattened square."""
    values = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(values, values)


def _tiles(x: Tensor, dilation: int, down: int, across: int, side: int) -> Tensor:
    """Contiguous (N, H, W, C) as (N, down, d, d, across, side, side, C): tiles every 4 pixels of each of the d x d grids."""
    picture, row, column, _ = x.stride()
    d = dilation
    size = (x.shape[0], down, d, d, across, side, side, x.shape[3])
    return x.as_strided(size, (picture, 4 * d * row, row, column, 4 * d * column, d * row, d * column, 1))
