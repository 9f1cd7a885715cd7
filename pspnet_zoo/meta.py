"""What travels with weights: the meaning of classes, what the network expects of an image, and numbers. Imports nothing heavy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""The id of pixels that neither train nor count; Cityscapes' trainId for them."""


@dataclass(frozen=True)
class Labels:
    """Names and colours of the class ids 0, 1, 2, ...

    Raises:
        ValueError: If names and colours differ in number, or a colour is not three integers of 0 to 255.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = None  # pyright: ignore[reportAssignmentType]
    """RGB, 0 to 255; left out, they are `distinct_colors`."""
    categories: Mapping[str, Sequence[int]] = field(default_factory=dict, compare=False, repr=False)
    """Groups of classes that are measured too, by name; not stored with weights."""
    official_ids: Sequence[int] = field(default=(), compare=False, repr=False)
    """What an evaluation server calls the classes, where it has other ids; not stored with weights."""

    def __post_init__(self) -> None:
        names = tuple(self.names)
        colors = distinct_colors(len(names)) if self.colors is None else tuple(map(tuple, self.colors))
        if len(names) != len(colors):
            raise ValueError(f"{len(names)} class names and {len(colors)} colours; there must be one colour a class")
        for name, color in zip(names, colors, strict=True):
            if len(color) != 3 or not all(_is_byte(c) for c in color):
                raise ValueError(f"The colour of class '{name}' is {color}; it must be three integers of 0 to 255")
        object.__setattr__(self, "names", names)
        # of NumPy's integers, JSON makes nothing
        object.__setattr__(self, "colors", tuple((int(r), int(g), int(b)) for r, g, b in colors))

    def __len__(self) -> int:
        return len(self.names)


def _is_byte(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and 0 <= int(value) <= 255  # pyright: ignore


def distinct_colors(number: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for classes that came without, all different, none of them black.

    Source: VOC devkit, VOCcode/VOClabelcolormap.m, from its second colour on: each octal digit of the class's number gives a bit to
    red, green and blue, the highest first.
    """

    def channel(n: int, c: int) -> int:
        return sum((n >> (3 * digit + c) & 1) << (7 - digit) for digit in range(8))

    return tuple((channel(n, 0), channel(n, 1), channel(n, 2)) for n in range(1, number + 1))


@dataclass(frozen=True)
class Preprocess:
    """Size and normalisation of an image; it travels with the weights.

    Called on a (..., C, H, W) tensor of pixel values, it gives (x / white * range - mean) / std as float32. RGB channels come in
    RGB order and leave in `order`.
    Sizes are the business of those who give images to networks: `pspnet_zoo.inference.scores`, and so `Predictor` and `evaluate`.

    Raises:
        ValueError: If a number is out of its range.
    """

    mean: tuple[float, ...]
    """Of each channel, on the scale of `range`."""
    std: tuple[float, ...]
    """Of each channel, on the scale of `range`."""
    range: float = 1.0
    """What `white` is scaled to before mean and std are applied."""
    max_pixels: int = 2048 * 1024
    """The largest image to give as it is; a predictor shrinks larger ones, near the scale of training and within memory."""
    input_scale: float = 1.0
    """The sides of what the network is given, in those of the image, 1 or more: networks see images at the scale that they were
    trained at. An image is enlarged no further than to `max_pixels`."""
    order: Literal["RGB", "BGR"] = "RGB"
    """Of the channels that the network reads, and of `mean` and `std`."""
    white: float = 255.0
    """The pixel value that means white, or 1.0 where values have a unit of their own: 255 of 8 bits, 65535 of 16 bits."""
    bands: tuple[str, ...] = ()
    """Names of the channels in the order of `mean`; empty where the file's order is meant."""

    def __post_init__(self) -> None:
        for name in ("std", "range", "max_pixels", "white"):
            value = getattr(self, name)
            if not all(math.isfinite(v) and v > 0 for v in (value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"{name} is {value}; it must be positive")
        if len(self.mean) != len(self.std) or not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean is {self.mean} and std is {self.std}; both have a finite number a channel")
        if self.bands and (len(self.bands) != len(self.mean) or len(set(self.bands)) != len(self.bands)):
            raise ValueError(f"bands is {self.bands}; it must be empty or have {len(self.mean)} different names, one a channel")
        if not 1 <= self.input_scale < math.inf:
            raise ValueError(f"input_scale is {self.input_scale}; it must be 1 or more")
        if self.order not in ("RGB", "BGR"):
            raise ValueError(f"order is {self.order!r}; it can be 'RGB' or 'BGR'")

    @property
    def mean_color(self) -> tuple[float, ...]:
        """The pixel value that becomes 0, for each channel of the image (of RGB in this order), 0 to `white`."""
        mean = tuple(m * self.white / self.range for m in self.mean)
        return mean[::-1] if self.order == "BGR" else mean

    @property
    def is_rgb(self) -> bool:
        """Whether images are 8-bit RGB, as photos are."""
        return len(self.mean) == 3 and self.white == 255 and not self.bands

    @property
    def std_color(self) -> tuple[float, ...]:
        """Standard deviation of each channel in pixel values, in the order of `mean_color`."""
        std = tuple(s * self.white / self.range for s in self.std)
        return std[::-1] if self.order == "BGR" else std

    def input_scale_for(self, height: int, width: int) -> float:
        """How much larger than an image of that size the network is given it, 1 or more."""
        return max(min(self.input_scale, (self.max_pixels / (height * width)) ** 0.5), 1.0)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The preprocessing that a config.json or an exported file states.

        Args:
            values: The fields by name; lists stand for tuples. `enlarge` is read as `input_scale`, its name before 0.1.0.

        Raises:
            ValueError: If a number is out of its range.
            TypeError: If a field is unknown.
        """
        fields = {"input_scale" if key == "enlarge" else key: value for key, value in values.items()}
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})

    def __call__(self, image: "Tensor") -> "Tensor":
        import torch

        mean, std = (torch.tensor(v, device=image.device).view(-1, 1, 1) for v in (self.mean, self.std))
        if self.order == "BGR":
            image = image.flip(-3)
        return (image.float() * (self.range / self.white) - mean) / std


@dataclass(frozen=True)
class Metric:
    """A number with everything that makes it comparable."""

    name: str
    """What was measured: "miou", "mean_accuracy", "pixel_accuracy" or "loss"."""
    value: float
    """As a fraction of 1, except the loss."""
    dataset: str
    split: str
    protocol: str
    """How: input size, scales, flip, windows."""
    origin: Literal["measured", "claimed"]
    """"measured" by this project with its own command, or "claimed" by the checkpoint's source."""
    multi_scale: bool = False
    """Whether predictions at several scales were averaged."""

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f} {self.origin} ({self.dataset} {self.split}, {self.protocol})"
