"""What a network expects of a picture."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """Normalisation of an RGB picture; it travels with the weights.

    Called on a (..., 3, H, W) uint8 tensor, RGB, it gives (x / 255 * range - mean) / std as float32, with the channels in `order`.
    """

    mean: tuple[float, ...]
    """Of each channel, on the scale of `range`."""
    std: tuple[float, ...]
    """Of each channel, on the scale of `range`."""
    range: float = 1.0
    """What white (255) is scaled to before mean and std are applied."""
    max_pixels: int = 2048 * 1024
    """The largest picture to give as it is; a predictor shrinks larger ones, near the scale of training and within memory."""
    order: Literal["RGB", "BGR"] = "RGB"
    """Of the channels that the network reads, and of `mean` and `std`."""

    def __call__(self, image: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=image.device).view(-1, 1, 1) for v in (self.mean, self.std))
        if self.order == "BGR":
            image = image.flip(-3)
        return (image.float() * (self.range / 255) - mean) / std
