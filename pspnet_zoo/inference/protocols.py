"""Inference protocols: resizing, windows, scales and flips from an image to class probabilities.

Published numbers follow one of two sets of merging rules:

- "mmseg": the image is flipped as a whole; logits are averaged over the windows and resized to the image's size; their softmax
  is averaged over scales and flips. An image smaller than the window is one smaller window.
  Source: open-mmlab/mmsegmentation mmseg/models/segmentors/encoder_decoder.py and seg_tta.py.
- "semseg": each window is flipped; softmax is averaged over flip and windows, resized, and averaged over scales. An image smaller
  than the window is centred on the mean colour. Source: hszhao/semseg tool/test.py.

Docs: docs/explanation/protocols.md.
"""

from dataclasses import dataclass, replace
from typing import Literal

Merging = Literal["mmseg", "semseg"]


@dataclass(frozen=True, kw_only=True)
class InferenceProtocol:
    """Resizing, windows and flips of images for a network, and the merging of its outputs.

    Raises:
        ValueError: If there is no scale, a number is not positive, or a stride leaves gaps.
    """

    source: str
    """Project and file that define the protocol."""
    within: tuple[int, int] | None = None
    """Largest long and short side, in pixels, to which images are resized at scale 1; None keeps their size."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of the image's sides, or of `within` where that is given."""
    flip: bool = False
    """Average with the prediction of the mirrored image."""
    crop: tuple[int, int] | None = None
    """Height and width of a sliding window, in pixels; None takes the whole image."""
    stride: tuple[int, int] | None = None
    """Rows and columns between windows, in pixels; with `crop`."""
    merging: Merging = "mmseg"
    """Rules for averaging windows, flips and scales; see the module."""
    align_corners: bool = False
    """Option of the resize from a scale's size to the image's."""

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales is {self.scales}; it must have one or more positive numbers")
        if self.within is not None and not 0 < self.within[1] <= self.within[0]:
            raise ValueError(f"within is {self.within}; it must be the long side and the short side, in pixels")
        if (self.crop is None) != (self.stride is None):
            raise ValueError(f"crop is {self.crop} and stride is {self.stride}; give both, or neither for whole images")
        if self.crop is not None and self.stride is not None:
            check_windows(self.crop, self.stride)

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Sizes to which an image of that size is resized, (height, width) for each scale."""
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


def check_windows(crop: tuple[int, int], stride: tuple[int, int]) -> None:
    """Raise a ValueError if windows of this size and stride, in pixels, leave gaps."""
    if not all(0 < step <= side for step, side in zip(stride, crop, strict=True)):
        raise ValueError(
            f"stride is {stride} and crop is {crop}; a stride is at least 1 and at most its side of the crop, or gaps are left"
        )


def _times(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))


_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_MMSEG = "open-mmlab/mmsegmentation 0.x, configs/_base_/datasets/cityscapes"
_MMSEG_SLIDE = InferenceProtocol(
    source=f"{_MMSEG}_769x769.py and configs/pspnet/pspnet_*_769x769_*_cityscapes.py",
    within=(2049, 1025),
    crop=(769, 769),
    stride=(513, 513),
    align_corners=True,
)
_SEMSEG = InferenceProtocol(
    source="hszhao/semseg, tool/test.py and config/cityscapes/cityscapes_pspnet101.yaml",
    within=(2048, 2048),
    flip=True,
    crop=(713, 713),
    stride=(476, 476),  # two thirds of the window, rounded up
    merging="semseg",
)

PROTOCOLS = {
    "whole": InferenceProtocol(source=f"images at their size, as {_MMSEG}.py has them at 2048x1024"),
    "whole_ms": InferenceProtocol(source="as 'whole', with that file's img_ratios and flip", scales=_SCALES, flip=True),
    "mmseg_slide": _MMSEG_SLIDE,
    "mmseg_slide_ms": replace(_MMSEG_SLIDE, scales=_SCALES, flip=True),
    "tiles": InferenceProtocol(
        source="windows at the image's size, as predict --tile 512 --no-blend has them; mmsegmentation 0.x measures Potsdam, "
        "Vaihingen and LoveDA on images cut to 512x512 or 1024x1024",
        crop=(512, 512),
        stride=(384, 384),
    ),
    "semseg": _SEMSEG,
    "semseg_ms": replace(_SEMSEG, scales=_SCALES),
}
"""Protocols by name, published ones and "tiles"; "ms" is multi-scale and flip. semseg's single scale flips too."""
