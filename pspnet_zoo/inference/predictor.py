"""Picture in, picture out."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ..data.images import read_image, to_rgb
from ..data.labels import Labels
from ..factory import load
from ..models import PSPNet
from . import draw
from .protocols import sliding_window

DEFAULT_MODEL = "pspnet_lite0.camvid"
"""Ships with the package."""


@dataclass(frozen=True)
class Prediction:
    """A segmented picture."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB: the picture."""
    mask: np.ndarray
    """(H, W) uint8: the class id of every pixel."""
    labels: Labels
    """What the ids mean."""

    @property
    def shares(self) -> dict[str, float]:
        """The fraction of the picture that each class takes, by name; together 1."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels)) / self.mask.size
        return dict(zip(self.labels.names, counts.tolist(), strict=True))

    def colorize(self) -> Image.Image:
        """The mask in the classes' colours, RGB."""
        return Image.fromarray(draw.colorize(self.mask, self.labels))

    def overlay(self, alpha: float = 0.5, *, legend: bool = False) -> Image.Image:
        """The picture under the classes' colours.

        Args:
            alpha: 0 shows the picture only, 1 the colours only.
            legend: Add the classes' names and shares at the right.

        Raises:
            ValueError: If alpha is not between 0 and 1.
        """
        picture = Image.fromarray(draw.overlay(self.image, self.mask, self.labels, alpha))
        return draw.with_legend(picture, self.labels, self.shares) if legend else picture

    def save(self, path: str | PathLike[str]) -> None:
        """Write the mask: an indexed picture whose values are the class ids and whose palette has their colours.

        Raises:
            ValueError: If the path does not end in .png, which keeps the ids exact.
            OSError: If it cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"'{path}' does not end in .png; other formats would change the class ids")
        draw.indexed(self.mask, self.labels).save(path)


class Predictor:
    """Segments pictures with a trained network.

    Args:
        model: A network with labels, a checkpoint's name or folder, or its repository on the Hub, "org/repo".
        device: Where to run, such as "cpu" or "cuda"; None for a GPU if there is one.

    Raises:
        ValueError: If the name is unknown, or the network has no labels.
        WeightsError: If the weights cannot be loaded.
    """

    def __init__(self, model: PSPNet | str | PathLike[str] = DEFAULT_MODEL, *, device: str | torch.device | None = None) -> None:
        self.model = load(model)
        if self.model.labels is None:
            raise ValueError("This network has no labels, so its classes have no names; set model.labels to pspnet_zoo.Labels")
        self.labels = self.model.labels
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model.to(self.device).to(memory_format=torch.channels_last).eval()

    def __call__(self, image: str | PathLike[str] | Image.Image | np.ndarray) -> Prediction:
        """Segment one picture.

        Args:
            image: A file, a PIL picture of any mode, or an (H, W, 3) uint8 RGB array. One with more pixels than
                `model.preprocess.max_pixels` is shrunk for the network; the result has its full size. An encoder that knows one
                size only sees it through windows of that size.

        Raises:
            FileNotFoundError: If there is no such file.
            ImageError: If it is not a picture.
        """
        pixels = read_image(Path(image)) if isinstance(image, str | PathLike) else to_rgb(image)
        height, width = pixels.shape[:2]
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.device)  # (1, 3, H, W)
        preprocess = self.model.preprocess
        factor = min(preprocess.enlargement(height, width), (preprocess.max_pixels / (height * width)) ** 0.5)
        if factor != 1:
            size = (max(round(height * factor), 1), max(round(width * factor), 1))
            x = F.interpolate(x.float(), size=size, mode="bilinear", antialias=True)
        x = self.model.preprocess(x)
        window = self.model.encoder.image_size
        if window is None:
            logits = self._logits(x)
        else:  # windows overlap by a third, as in hszhao/semseg
            logits = sliding_window(self._logits, x, window, (-(-window[0] * 2 // 3), -(-window[1] * 2 // 3)))
        return Prediction(pixels, _argmax(logits, (height, width)).cpu().numpy(), self.labels)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        output = self.model.predict(x.contiguous(memory_format=torch.channels_last))
        return output[0] if isinstance(output, tuple) else output


def _argmax(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(1, C, h, w) logits to (*size) uint8 ids; one class at a time, so that a large picture needs two maps and not C."""
    if logits.shape[-2:] == size:
        return logits[0].argmax(dim=0).to(torch.uint8)
    best = torch.full(size, -torch.inf, device=logits.device)
    mask = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    for class_id in range(logits.shape[1]):
        score = F.interpolate(logits[:, class_id : class_id + 1].float(), size=size, mode="bilinear")[0, 0]
        mask[score > best] = class_id
        best = torch.maximum(best, score)
    return mask
