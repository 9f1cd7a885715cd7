"""Augmentation of picture and mask together, on torchvision.transforms.v2."""

from collections.abc import Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from .labels import IGNORE


class RandomScale(v2.Transform):
    """Resize by a factor drawn uniformly from `scale`; masks take the nearest id.

    Source: hszhao/semseg util/transform.py, RandScale (0.5 to 2).
    """

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.functional.get_size(flat_inputs[0])
        low, high = self.scale
        factor = low + (high - low) * torch.rand(()).item()
        return {"size": [max(round(height * factor), 1), max(round(width * factor), 1)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.resize(inpt, params["size"], antialias=True)


def training_transform(*, crop: tuple[int, int], scale: tuple[float, float], mean: Sequence[float]) -> v2.Compose:
    """Photometric distortion, scale, crop and flip of an (Image, Mask) pair of uint8.

    Args:
        crop: (height, width) in pixels; what lies outside the picture is filled with `mean`, and ignored in the mask.
        scale: Bounds of the resizing factor.
        mean: RGB, 0 to 255.
    """
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            RandomScale(scale),
            v2.RandomCrop(crop, pad_if_needed=True, fill={tv_tensors.Image: [round(m) for m in mean], tv_tensors.Mask: IGNORE}),
            v2.RandomHorizontalFlip(),
        ]
    )
