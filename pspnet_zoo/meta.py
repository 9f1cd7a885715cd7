"""Metadata that is stored with weights: labels, preprocessing and metrics. Imports nothing heavy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""The id of pixels that are left out of training and metrics; Cityscapes' trainId for them."""


@dataclass(frozen=True)
class Labels:
    """Names and colors of the class ids 0, 1, 2, ...

    Raises:
        ValueError: If a name is no text or there twice, names and colors differ in number, or a color is not three integers of 0 to
            255.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = None  # pyright: ignore[reportAssignmentType]
    """RGB colors, 0 to 255; `distinct_colors` if omitted."""
    categories: Mapping[str, Sequence[int]] = field(default_factory=dict, compare=False, repr=False)
    """Class ids of each category, by name; evaluation measures categories too. Not stored with weights."""
    official_ids: Sequence[int] = field(default=(), compare=False, repr=False)
    """Ids of the classes on an evaluation server, where they differ. Not stored with weights."""
    multilabel: bool = False
    """Whether a pixel may be of several of the classes, or of none. Networks state it in their config."""

    def __post_init__(self) -> None:
        names = tuple(self.names)
        if isinstance(self.names, str) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"The class names are {self.names!r}; they must be a list of texts, one a class")
        if doubled := [name for name in dict.fromkeys(names) if names.count(name) > 1]:  # results are given by name
            raise ValueError(f"Several classes are named '{doubled[0]}'; each needs a name of its own")
        colors = distinct_colors(len(names)) if self.colors is None else tuple(map(tuple, self.colors))
        if len(names) != len(colors):
            raise ValueError(f"{len(names)} class names and {len(colors)} colors; there must be one color a class")
        for name, color in zip(names, colors, strict=True):
            if len(color) != 3 or not all(_is_byte(c) for c in color):
                raise ValueError(f"The color of class '{name}' is {color}; it must be three integers of 0 to 255")
        object.__setattr__(self, "names", names)
        # JSON does not take NumPy's integers
        object.__setattr__(self, "colors", tuple((int(r), int(g), int(b)) for r, g, b in colors))

    def __len__(self) -> int:
        return len(self.names)


def _is_byte(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and 0 <= int(value) <= 255  # pyright: ignore


def distinct_colors(number: int) -> tuple[tuple[int, int, int], ...]:
    """Colors for a number of classes, all different, none of them black.

    Source: VOC devkit, VOCcode/VOClabelcolormap.m, from its second color on: each octal digit of the class's number gives a bit to
    red, green and blue, the highest first.
    """

    def channel(n: int, c: int) -> int:
        return sum((n >> (3 * digit + c) & 1) << (7 - digit) for digit in range(8))

    return tuple((channel(n, 0), channel(n, 1), channel(n, 2)) for n in range(1, number + 1))


@dataclass(frozen=True)
class Preprocess:
    """Size and normalisation of an image, stored with the weights.

    Called on a (..., C, H, W) tensor of pixel values, uint8 where white is 255, it gives (x / white * range - mean) / std as
    float32. RGB channels come in RGB order and leave in `order`.
    Images are resized by `pspnet_zoo.inference.scores`, and so by `Predictor` and `evaluate`.

    Raises:
        ValueError: If a number is out of its range.
    """

    mean: tuple[float, ...]
    """Mean of each channel, on the scale of `range`."""
    std: tuple[float, ...]
    """Standard deviation of each channel, on the scale of `range`."""
    range: float = 1.0
    """Value to which `white` is scaled before mean and std are applied."""
    max_pixels: int = 2048 * 1024
    """Most pixels of an input; larger images are downsampled, to stay near the scale of training and within memory."""
    input_scale: float = 1.0
    """Input scale factor, 1 or more: images are upsampled by it to the scale of training, up to `max_pixels`."""
    order: Literal["RGB", "BGR"] = "RGB"
    """Order of the first three channels that the network reads, and of `mean` and `std`."""
    white: float = 255.0
    """The pixel value that means white, or 1.0 where values have a unit of their own: 255 of 8 bits, 65535 of 16 bits."""
    bands: tuple[str, ...] = ()
    """Names of the channels in the order of `mean`; empty where the file's order is meant."""

    def __post_init__(self) -> None:
        for name in ("std", "range", "max_pixels", "white"):
            value = getattr(self, name)
            values = value if name == "std" else (value,)
            if not all(math.isfinite(v) and v > 0 for v in values):
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
        return self._as_rgb(mean)

    @property
    def is_rgb(self) -> bool:
        """Whether images are 8-bit RGB, as photos are."""
        return len(self.mean) == 3 and self.white == 255 and not self.bands

    @property
    def std_color(self) -> tuple[float, ...]:
        """Standard deviation of each channel in pixel values, in the order of `mean_color`."""
        std = tuple(s * self.white / self.range for s in self.std)
        return self._as_rgb(std)

    def _as_rgb(self, values: tuple[float, ...]) -> tuple[float, ...]:
        return values[2::-1] + values[3:] if self.order == "BGR" else values

    def input_scale_for(self, height: int, width: int) -> float:
        """Input scale factor for an image of that size, 1 or more."""
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
        fields: dict[str, Any] = {"input_scale" if key == "enlarge" else key: value for key, value in values.items()}
        fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return cls(**fields)

    def __call__(self, image: "Tensor") -> "Tensor":
        self.check_type(image)
        return self.normalize(image)

    def check_type(self, image: "Tensor") -> None:
        """Raise a ValueError if the type of an image's pixels does not go with `white`: uint8 with 255, others with another."""
        kind = str(image.dtype).removeprefix("torch.")
        if kind != "uint8" and self.white == 255:
            raise ValueError(
                f"The image is {kind}, and the network reads uint8 of 0 to 255. Convert values of 0 to 1 by "
                "(image * 255).round().to(torch.uint8)"
            )
        if kind == "uint8" and self.white != 255:
            raise ValueError(f"The image is uint8, and the network reads values in which white is {self.white:g}; convert it")

    def normalize(self, pixels: "Tensor") -> "Tensor":
        """Normalise pixel values of any type, such as resized ones: (..., C, H, W), 0 to `white`, to float32."""
        import torch

        mean, std = (torch.tensor(v, device=pixels.device).view(-1, 1, 1) for v in (self.mean, self.std))
        if self.order == "BGR" and len(self.mean) > 3:
            pixels = torch.cat([pixels[..., :3, :, :].flip(-3), pixels[..., 3:, :, :]], dim=-3)
        elif self.order == "BGR":
            pixels = pixels.flip(-3)
        return (pixels.float() * (self.range / self.white) - mean) / std


@dataclass(frozen=True)
class Metric:
    """A measured or claimed number, with its dataset, split and protocol."""

    name: str
    """"miou", "mean_accuracy", "pixel_accuracy" or "loss"."""
    value: float
    """A fraction of 1, except for the loss."""
    dataset: str
    split: str
    protocol: str
    """Inference protocol: input size, scales, flip, windows."""
    origin: Literal["measured", "claimed"]
    """"measured" by this project with its own command, or "claimed" by the checkpoint's source."""
    multi_scale: bool = False
    """Whether predictions at several scales were averaged."""

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f} {self.origin} ({self.dataset} {self.split}, {self.protocol})"


NEARLY = 1e-7
"""Smallest distance from 0 and 1 at which a float32 probability has finite log-odds."""
TINY = 2.0**-126
"""Smallest normal float32."""


@dataclass(frozen=True)
class Decision:
    """The rule by which the classes of a pixel follow from its scores: the only place that tells one class a pixel from several."""

    multilabel: bool = False
    """Whether a pixel may be of several classes or none: each class is then decided for itself, by its sigmoid."""
    threshold: float | tuple[float, ...] | None = None
    """Probability above which a pixel has id 1 of two; with `multilabel`, one a class. None for the most probable class, or 0.5."""

    def probabilities(self, scores: "Tensor") -> "Tensor":
        """(N, C, ...) probabilities of 0 to 1; their sum is 1 unless `multilabel`."""
        return scores.sigmoid() if self.multilabel else scores.softmax(dim=1)

    def scores(self, probabilities: "Tensor") -> "Tensor":
        """(N, C, ...) finite scores of probabilities."""
        if self.multilabel:
            return probabilities.logit(eps=NEARLY)
        return probabilities.clamp(min=TINY).log_()

    def shifted(self, scores: "Tensor") -> "Tensor":
        """(N, C, h, w) scores whose argmax are the ids; with `multilabel`, those above 0 are of the class.

        Raises:
            ValueError: If the threshold is for another number of classes.
        """
        if self.threshold is None:
            return scores
        least = self.threshold if isinstance(self.threshold, tuple) else (0.5, self.threshold)
        if scores.shape[1] != len(least):
            raise ValueError(
                f"threshold is {self.threshold}, which is for {'two' if len(least) == 2 else len(least)} classes, and there are "
                f"{scores.shape[1]}; set it to None"
            )
        return scores - scores.new_tensor([math.log(t / (1 - t)) for t in least]).view(1, -1, 1, 1)

    def __call__(self, scores: "Tensor") -> "Tensor":
        """(N, h, w) int64 ids of (N, C, h, w) scores; with `multilabel`, (N, C, h, w) bool."""
        shifted = self.shifted(scores)
        return shifted > 0 if self.multilabel else shifted.argmax(dim=1)
