"""Inference protocols: how a picture of any size becomes class probabilities.

Two families of published numbers follow two sets of merging rules, and both can be stated here:

- "mmseg": the picture is flipped as a whole; logits are averaged over the windows and resized to the picture's size; their softmax
  is averaged over scales and flips. A picture smaller than the window is one smaller window.
  Source: open-mmlab/mmsegmentation mmseg/models/segmentors/encoder_decoder.py and seg_tta.py.
- "semseg": each window is flipped; softmax is averaged over flip and windows, resized, and averaged over scales. A picture smaller
  than the window is centred on the mean colour. Source: hszhao/semseg tool/test.py.

Docs: docs/explanation/protocols.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Net = Callable[[Tensor], Tensor]
"""Maps (N, 3, h, w) normalised float to (N, C, h, w) logits."""

Merging = Literal["mmseg", "semseg"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How pictures are resized, cut and flipped for a network, and how its outputs are merged.

    Raises:
        ValueError: If there is no scale, a number is not positive, or a stride leaves gaps.
    """

    source: str
    """Whose protocol it is, and where that is written."""
    within: tuple[int, int] | None = None
    """Largest long and short side, in pixels, to which pictures are enlarged or shrunk at scale 1; None keeps their size."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of the picture's sides; of `within` where that is given."""
    flip: bool = False
    """Average with the prediction of the mirrored picture."""
    crop: tuple[int, int] | None = None
    """Height and width of a sliding window, in pixels; None takes the whole picture."""
    stride: tuple[int, int] | None = None
    """Rows and columns between windows, in pixels; with `crop`."""
    merging: Merging = "mmseg"
    """Whose rules average windows, flips and scales; see the module."""
    align_corners: bool = False
    """Of the resize from a scale's size to the picture's."""

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales is {self.scales}; it must have one or more positive numbers")
        if self.within is not None and not 0 < self.within[1] <= self.within[0]:
            raise ValueError(f"within is {self.within}; it must be the long side and the short side, in pixels")
        if (self.crop is None) != (self.stride is None):
            raise ValueError(f"crop is {self.crop} and stride is {self.stride}; give both, or neither for whole pictures")
        if self.crop is not None and self.stride is not None:
            _check_windows(self.crop, self.stride)

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """What a picture of that size is resized to, (height, width) for each scale."""
        factors = list(self.scales)
        if self.within is not None:
            long, short = self.within
            # truncated as in mmseg 0.x; semseg's numbers are whole
            factors = [min(int(long * s) / max(height, width), int(short * s) / min(height, width)) for s in self.scales]
        return [(max(int(height * f + 0.5), 1), max(int(width * f + 0.5), 1)) for f in factors]

    def __str__(self) -> str:
        windows = "whole image" if self.crop is None else f"windows of {_times(self.crop)}, stride {_times(self.stride)}"
        within = f", resized to fit {_times(self.within)}" if self.within else ""
        scales = "single scale" if self.scales == (1.0,) else f"scales {', '.join(f'{s:g}' for s in self.scales)}"
        merging = ", probabilities averaged" if self.merging == "semseg" else ""
        return f"{windows}{within}{merging}, {scales}, {'flip' if self.flip else 'no flip'}"


def _check_windows(crop: tuple[int, int], stride: tuple[int, int]) -> None:
    if not all(0 < step <= side for step, side in zip(stride, crop, strict=True)):
        raise ValueError(
            f"stride is {stride} and crop is {crop}; a stride is at least 1 and at most its side of the crop, or gaps are left"
        )


def _times(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))


_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_MMSEG = "open-mmlab/mmsegmentation 0.x, configs/_base_/datasets/cityscapes"
_MMSEG_SLIDE = Protocol(
    source=f"{_MMSEG}_769x769.py and configs/pspnet/pspnet_*_769x769_*_cityscapes.py",
    within=(2049, 1025),
    crop=(769, 769),
    stride=(513, 513),
    align_corners=True,
)
_SEMSEG = Protocol(
    source="hszhao/semseg, tool/test.py and config/cityscapes/cityscapes_pspnet101.yaml",
    within=(2048, 2048),
    flip=True,
    crop=(713, 713),
    stride=(476, 476),  # two thirds of the window, rounded up
    merging="semseg",
)

PROTOCOLS = {
    "whole": Protocol(source=f"pictures at their size, as {_MMSEG}.py has them at 2048x1024"),
    "whole_ms": Protocol(source="as 'whole', with that file's img_ratios and flip", scales=_SCALES, flip=True),
    "mmseg_slide": _MMSEG_SLIDE,
    "mmseg_slide_ms": replace(_MMSEG_SLIDE, scales=_SCALES, flip=True),
    "semseg": _SEMSEG,
    "semseg_ms": replace(_SEMSEG, scales=_SCALES),
}
"""Published protocols by name; "ms" is multi-scale and flip. semseg's single scale flips too."""


@torch.no_grad()
def segment(
    net: Net, x: Tensor, protocol: Protocol, *, window_batch: int = 1, accumulate_on: torch.device | str | None = None
) -> Tensor:
    """Log-probabilities of the classes for every pixel.

    Beside the network's own memory it takes a few maps of scores at the largest scale, however many windows, scales and flips.

    Args:
        net: See `Net`; its output is of the size of its input.
        x: (N, 3, H, W) float, normalised, so that 0 is the mean colour.
        protocol: What to do.
        window_batch: Windows of each picture that `net` is given at once.
        accumulate_on: Where scores are summed and returned, such as "cpu" for pictures too large for a GPU; None is `x`'s device.

    Returns:
        (N, C, H, W) float32. Averaged probabilities below 1.2e-38 count as that, so that no logarithm is infinite.

    Raises:
        ValueError: If `net` gives another size than it got.
    """
    size = (x.shape[-2], x.shape[-1])

    def over_windows(function: Net, picture: Tensor) -> Tensor:
        if protocol.crop is None or protocol.stride is None:
            return _run(function, picture, accumulate_on)
        return sliding_window(
            function, picture, protocol.crop, protocol.stride, window_batch=window_batch, accumulate_on=accumulate_on
        )

    flips = (False, True) if protocol.flip and protocol.merging == "mmseg" else (False,)
    views = [(scaled_size, flip) for scaled_size in protocol.sizes(*size) for flip in flips]
    total = torch.zeros((), device=accumulate_on or x.device)
    for (height, width), flip in views:
        scaled = _resize(x, (height, width))
        if protocol.merging == "semseg":
            padded, top, left = _pad(scaled, protocol.crop or (1, 1))
            probabilities = over_windows(lambda w: _probabilities(net, w, protocol.flip), padded)
            probabilities = probabilities[..., top : top + height, left : left + width]
            scores = _resize(probabilities, size, protocol.align_corners)
        else:
            logits = _resize(over_windows(net, scaled.flip(-1) if flip else scaled), size, protocol.align_corners)
            if len(views) == 1:
                return logits.log_softmax(dim=1)
            scores = (logits.flip(-1) if flip else logits).softmax(dim=1)
        total = scores.add_(total)
    return total.div_(len(views)).clamp_(min=torch.finfo(torch.float32).tiny).log_()


@torch.no_grad()
def sliding_window(
    net: Net,
    x: Tensor,
    crop: tuple[int, int],
    stride: tuple[int, int],
    *,
    window_batch: int = 1,
    accumulate_on: torch.device | str | None = None,
) -> Tensor:
    """Average what a network says of overlapping windows.

    Windows start every `stride` pixels; the last of a row or column ends at the picture's edge. Where the picture is smaller than
    `crop`, the windows are as small as the picture.

    Args:
        net: See `Net`; it may also give other scores than logits.
        x: (N, 3, H, W) float, normalised.
        crop: Height and width of a window, in pixels.
        stride: Rows and columns between windows, in pixels.
        window_batch: Windows of each picture that `net` is given at once.
        accumulate_on: Where scores are summed and returned; None is `x`'s device.

    Returns:
        (N, C, H, W) float32; every pixel is covered.

    Raises:
        ValueError: If a number is not positive, a stride leaves gaps, or `net` gives another size than it got.
    """
    _check_windows(crop, stride)
    if window_batch < 1:
        raise ValueError(f"window_batch is {window_batch}; it must be positive")
    count, size = len(x), (x.shape[-2], x.shape[-1])
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    tops, lefts = _starts(size[0], height, stride[0]), _starts(size[1], width, stride[1])
    corners = [(top, left) for top in tops for left in lefts]
    total = torch.empty(0)  # until the first batch tells the number of classes
    for first in range(0, len(corners), window_batch):
        batch = corners[first : first + window_batch]
        scores = _run(net, torch.cat([x[..., top : top + height, left : left + width] for top, left in batch]), accumulate_on)
        if first == 0:
            total = scores.new_zeros(count, scores.shape[1], *size)
        for (top, left), window in zip(batch, scores.split(count), strict=True):
            total[..., top : top + height, left : left + width] += window
    coverage = _coverage(size[0], height, tops)[:, None] * _coverage(size[1], width, lefts)
    return total.div_(coverage.to(total.device))


def _starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side."""
    return [*range(0, size - window, stride), size - window]


def _coverage(size: int, window: int, starts: list[int]) -> Tensor:
    """(size,) the number of windows over each place along one side."""
    counts = torch.zeros(size)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def _run(net: Net, x: Tensor, place: torch.device | str | None) -> Tensor:
    scores = net(x)
    if scores.shape[-2:] != x.shape[-2:]:
        raise ValueError(f"The network gave {tuple(scores.shape)} for {tuple(x.shape)}; height and width must be the same")
    return scores.to(place or x.device, torch.float32)


def _probabilities(net: Net, x: Tensor, flip: bool) -> Tensor:
    """Softmax, averaged with that of the mirrored windows."""
    probabilities = net(x).float().softmax(dim=1)
    return (probabilities + net(x.flip(-1)).float().softmax(dim=1).flip(-1)) / 2 if flip else probabilities


def _pad(x: Tensor, crop: tuple[int, int]) -> tuple[Tensor, int, int]:
    """The picture centred on the mean colour where it is smaller than the window; how many rows and columns come before it."""
    down, right = (max(side - have, 0) for side, have in zip(crop, x.shape[-2:], strict=True))
    top, left = down // 2, right // 2
    return F.pad(x, (left, right - left, top, down - top)), top, left


def _resize(x: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
