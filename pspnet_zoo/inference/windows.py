"""Sliding windows, scales and flips of an inference protocol, and the merging of their scores.

`pspnet_zoo.inference.protocols` has the two sets of merging rules and their sources.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..meta import Decision
from .protocols import InferenceProtocol, check_windows

Net = Callable[[Tensor], Tensor]
"""Maps (N, 3, h, w) normalised float to (N, C, h, w) logits."""


@torch.no_grad()
def segment(net: Net, x: Tensor, protocol: InferenceProtocol, decision: Decision = Decision()) -> Tensor:  # noqa: B008
    """Compute the scores of the classes for every pixel, of which `decision` gives the probabilities.

    Beside the network's own memory this takes a few score maps at the largest scale, for any number of windows, scales and flips.

    Args:
        net: See `Net`; its output has the size of its input.
        x: (N, 3, H, W) float, normalised, so that 0 is the mean color.
        protocol: Inference protocol.
        decision: How probabilities follow from logits.

    Returns:
        (N, C, H, W) float32: the logits where there is one view, else the scores of the averaged probabilities, which are finite:
        for one class a pixel their logarithm, where those below 1.2e-38 count as that.

    Raises:
        ValueError: If `net` gives another size than it got.
    """
    size = (x.shape[-2], x.shape[-1])

    def over_windows(function: Net, image: Tensor) -> Tensor:
        if protocol.crop is None or protocol.stride is None:
            return _run(function, image)
        return sliding_window(function, image, protocol.crop, protocol.stride)

    flips = (False, True) if protocol.flip and protocol.merging == "mmseg" else (False,)
    views = [(scaled_size, flip) for scaled_size in protocol.sizes(*size) for flip in flips]
    total = torch.zeros((), device=x.device)
    for (height, width), flip in views:
        scaled = _resize(x, (height, width))
        if protocol.merging == "semseg":
            padded, top, left = _pad(scaled, protocol.crop or (1, 1))
            probabilities = over_windows(lambda w: _probabilities(net, w, protocol.flip, decision), padded)
            probabilities = probabilities[..., top : top + height, left : left + width]
            scores = _resize(probabilities, size, protocol.align_corners)
        else:
            logits = _resize(over_windows(net, scaled.flip(-1) if flip else scaled), size, protocol.align_corners)
            if len(views) == 1:
                return logits
            scores = decision.probabilities(logits.flip(-1) if flip else logits)
        total = scores.add_(total)
    return decision.scores(total.div_(len(views)))


@torch.no_grad()
def sliding_window(net: Net, x: Tensor, crop: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Average the scores of overlapping windows.

    Windows start every `stride` pixels; the last of a row or column ends at the image's edge. Where the image is smaller than
    `crop`, the windows are as small as the image.

    Args:
        net: See `Net`; it may also give other scores than logits.
        x: (N, 3, H, W) float, normalised.
        crop: Height and width of a window, in pixels.
        stride: Rows and columns between windows, in pixels.

    Returns:
        (N, C, H, W) float32; every pixel is covered.

    Raises:
        ValueError: If a number is not positive, a stride leaves gaps, or `net` gives another size than it got.
    """
    check_windows(crop, stride)
    size = (x.shape[-2], x.shape[-1])
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    tops, lefts = _starts(size[0], height, stride[0]), _starts(size[1], width, stride[1])
    total = torch.empty(0)  # until the first window gives the number of classes
    for top in tops:
        for left in lefts:
            scores = _run(net, x[..., top : top + height, left : left + width])
            if not total.numel():
                total = scores.new_zeros(*scores.shape[:2], *size)
            total[..., top : top + height, left : left + width] += scores
    coverage = _coverage(size[0], height, tops)[:, None] * _coverage(size[1], width, lefts)
    return total.div_(coverage.to(total.device))


def _starts(size: int, window: int, stride: int) -> list[int]:
    """First pixel of each window along one side."""
    return [*range(0, size - window, stride), size - window]


def _coverage(size: int, window: int, starts: list[int]) -> Tensor:
    """(size,) number of windows over each pixel along one side."""
    counts = torch.zeros(size)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def _run(net: Net, x: Tensor) -> Tensor:
    scores = net(x)
    if scores.shape[-2:] != x.shape[-2:]:
        raise ValueError(f"The network gave {tuple(scores.shape)} for {tuple(x.shape)}; height and width must be the same")
    return scores.to(torch.float32)


def _probabilities(net: Net, x: Tensor, flip: bool, decision: Decision) -> Tensor:
    """Probabilities, averaged with those of the mirrored windows."""
    probabilities = decision.probabilities(net(x).float())
    return (probabilities + decision.probabilities(net(x.flip(-1)).float()).flip(-1)) / 2 if flip else probabilities


def _pad(x: Tensor, crop: tuple[int, int]) -> tuple[Tensor, int, int]:
    """Center an image that is smaller than the window on the mean color; also the rows and columns before it."""
    down, right = (max(side - have, 0) for side, have in zip(crop, x.shape[-2:], strict=True))
    top, left = down // 2, right // 2
    return F.pad(x, (left, right - left, top, down - top)), top, left


def _resize(x: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
