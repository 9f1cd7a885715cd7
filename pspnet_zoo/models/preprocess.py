"""What a network expects of a picture."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """Normalisation of an RGB picture; it travels with the weights.

    Called on a (..., 3, H, W) uint8 tensor it gives (x / 255 * range - mean) / std as float32.
    """

    mean: tuple[float, ...]
    """Of each channel, on the scale of `range`."""
    std: tuple[float, ...]
    """Of each channel, on the scale of `range`."""
    range: float = 1.0
    """What white (255) is scaled to before mean and std are applied."""
    max_pixels: int = 2048 * 1024
    """The largest picture to give as it is; a predictor shrinks larger ones, near the scale of training and within memory."""

    def __call__(self, image: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=image.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (image.float() * (self.range / 255) - mean) / std
