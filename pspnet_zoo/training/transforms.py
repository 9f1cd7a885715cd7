"""Augmentation of image and mask together, on torchvision.transforms.v2.

Everything random is drawn from torch's global generator.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..data.labels import IGNORE

Window = tuple[int, int, int, int]
"""Top, left, height and width, in pixels."""


class Coordinates(tv_tensors.TVTensor):
    """(3, H, W) float: the position of each pixel in its image, and 1 inside it. See `distill.coordinates`.

    Every geometric transform here treats it as the image, with 0 outside; transforms of colours leave it as it is.
    """


def _as_image(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda inpt, *args, **options: kernel(inpt.as_subclass(Tensor), *args, **options).as_subclass(Coordinates)


for _functional, _kernel in (
    (F.resize, F.resize_image),
    (F.crop, F.crop_image),
    (F.horizontal_flip, F.horizontal_flip_image),
    (F.pad, F.pad_image),
):
    F.register_kernel(_functional, Coordinates)(_as_image(_kernel))


def training_transform(
    *,
    crop: tuple[int, int],
    mean: Sequence[float],
    scale: tuple[float, float] = (0.5, 2.0),
    rotate: float = 0.0,
    blur: float = 0.0,
    cat_max_ratio: float = 1.0,
    rare_crops: float = 0.0,
    photometric: bool = True,
    std: Sequence[float] | None = None,
) -> v2.Compose:
    """Scale, rotate, crop, blur, flip, distort and pad an (Image, Mask) pair, and `Coordinates` with it, in this order.

    Both upstreams' augmentations are this one with their own settings:
    semseg's with `rotate=10, blur=0.5, photometric=False`, mmseg's with `cat_max_ratio=0.75`.

    - semseg scales, rotates, blurs, flips, pads and crops. Flip and crop commute in distribution. Blurring only what the crop
      leaves is several times faster, and differs in its outer two pixels.
    - mmseg scales, crops, flips and distorts, and pads with the batch, on the right and below; here, as in semseg, on all sides.
    - Both resize with OpenCV's bilinear filter, which aliases when it shrinks; here it is antialiased, as Pillow's.

    Args:
        crop: (height, width) of what comes out, in pixels.
        mean: A pixel value for each channel; fills, rounded, what lies outside the image, where the mask is ignored.
        scale: Bounds of the resizing factor.
        rotate: Largest angle, in degrees; half of the images are rotated.
        blur: Probability of a Gaussian blur over 5x5 pixels.
        cat_max_ratio: Fraction of the counted pixels of a crop that its largest class should stay below, 0 to 1. See `RandomCrop`.
        rare_crops: Fraction of the crops that are centred on rare classes, 0 to 1. See `RandomCrop`.
        photometric: Whether to distort the colours. See `PhotometricDistortion`, and `BandDistortion` where `std` is given.
        std: Standard deviation of each band, in pixel values; None for 8-bit RGB images.

    Source: hszhao/semseg tool/train.py (2338a13) and util/transform.py (5e5a0ba); mmsegmentation 1.2.2
    configs/_base_/datasets/cityscapes.py and mmseg/models/data_preprocessor.py.
    """
    fill = [float(round(m)) for m in mean] if std is None else list(mean)
    # 1.1 is the sigma that OpenCV states for 5 pixels and semseg's sigma of 0; each weight is within 0.01 of OpenCV's 1 4 6 4 1
    smoothing = [v2.RandomApply([v2.GaussianBlur(5, sigma=1.1)], p=blur)] if blur else []
    distortion = [PhotometricDistortion() if std is None else BandDistortion(mean, std)] if photometric else []
    return v2.Compose(
        [
            RandomScale(scale),
            RandomCrop(crop, fill, rotate, cat_max_ratio, rare_crops),
            *smoothing,
            v2.RandomHorizontalFlip(),
            *distortion,
            PadTo(crop, fill),
        ]
    )


class RandomScale(v2.Transform):
    """Resize by a factor drawn uniformly from `scale`; masks take the nearest id.

    Source: hszhao/semseg util/transform.py, RandScale (0.5 to 2); mmsegmentation has the same as RandomResize.
    """

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = F.get_size(flat_inputs[0])
        factor = _uniform(*self.scale)
        return {"size": [max(round(height * factor), 1), max(round(width * factor), 1)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resize(inpt, params["size"], antialias=True)


class RandomCrop(v2.Transform):
    """Rotate about the centre, and crop at random; an image smaller than the crop keeps its own size.

    Args:
        crop: (height, width) in pixels.
        fill: RGB, 0 to 255, of the corners that rotation uncovers; the mask is ignored there.
        rotate: Half of the images are rotated, by an angle drawn uniformly between plus and minus this many degrees.
        cat_max_ratio: Below 1, a crop in which one class has this fraction or more of the counted pixels, or in which none is
            counted, is drawn again, at most 10 times.
        rare: Fraction of the crops that are centred, as far as the image reaches, on a pixel of a class drawn from those of the
            image, each with a probability in inverse proportion to its pixels there, 0 to 1.

    Source: hszhao/semseg util/transform.py, RandRotate; mmsegmentation mmseg/datasets/transforms/transforms.py, RandomCrop.
    """

    def __init__(self, crop: tuple[int, int], fill: list[float], rotate: float, cat_max_ratio: float, rare: float = 0.0) -> None:
        super().__init__()
        self.crop, self.fill, self.rotate, self.cat_max_ratio, self.rare = crop, fill, rotate, cat_max_ratio, rare

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        mask = next(i for i in flat_inputs if isinstance(i, tv_tensors.Mask))
        angle = _uniform(-self.rotate, self.rotate) if self.rotate and _coin() else 0.0
        window = self._draw(mask, angle)
        if self.cat_max_ratio < 1:
            for _ in range(10):
                counts, counted = _class_pixels(_rotate_and_crop(mask, window, angle, IGNORE))
                if counts.max().item() < self.cat_max_ratio * counted:
                    break
                window = self._draw(mask, angle)
        return {"window": window, "angle": angle}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _rotate_and_crop(inpt, params["window"], params["angle"], _fill(inpt, self.fill))

    def _draw(self, mask: Tensor, angle: float) -> Window:
        full_height, full_width = mask.shape[-2:]
        height, width = min(full_height, self.crop[0]), min(full_width, self.crop[1])
        if self.rare and torch.rand(()) < self.rare and (pixel := _rare_pixel(mask)):
            # where the rotation takes the pixel
            y, x = pixel[0] - (full_height - 1) / 2, pixel[1] - (full_width - 1) / 2
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            row, column = cos * y - sin * x + (full_height - 1) / 2, cos * x + sin * y + (full_width - 1) / 2
            top, left = round(row - (height - 1) / 2), round(column - (width - 1) / 2)
            return min(max(top, 0), full_height - height), min(max(left, 0), full_width - width), height, width
        top, left = torch.randint(full_height - height + 1, ()), torch.randint(full_width - width + 1, ())
        return int(top), int(left), height, width


class PhotometricDistortion(v2.Transform):
    """Brightness, contrast, saturation and hue, each changed with probability 0.5; contrast comes before or after the last two.

    Adds up to 32 of 255 to all channels, multiplies them by 0.5 to 1.5, multiplies HSV's saturation by 0.5 to 1.5, and rotates the
    hue by up to 36 degrees: mmseg's 18 are of OpenCV's 180 to the circle.

    Source: mmsegmentation 1.2.2 mmseg/datasets/transforms/transforms.py, PhotoMetricDistortion. It is not torchvision's
    RandomPhotometricDistort, which multiplies for brightness, blends with gray for contrast and saturation, rotates the hue half
    as far, and shuffles the channels of half of the images.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        bounds = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.1, 0.1)}
        drawn = {name: _uniform(*b) if _coin() else None for name, b in bounds.items()}
        return {**drawn, "contrast_first": _coin()}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        x = inpt.as_subclass(Tensor).float()
        if params["brightness"] is not None:
            x = (x + params["brightness"]).clamp(0, 255)
        if params["contrast"] is not None and params["contrast_first"]:
            x = (x * params["contrast"]).clamp(0, 255)
        if params["saturation"] is not None:
            value, chroma = x.amax(0), x.amax(0) - x.amin(0)
            # in HSV a channel is value * (1 - saturation * k), and saturation, chroma / value, ends at 1
            factor = (value / chroma.clamp(min=1e-6)).clamp(max=params["saturation"])
            x = value - (value - x) * factor
        if params["hue"] is not None:
            x = F.adjust_hue(x / 255, params["hue"]) * 255
        if params["contrast"] is not None and not params["contrast_first"]:
            x = (x * params["contrast"]).clamp(0, 255)
        return tv_tensors.Image(x.round().to(torch.uint8))


class BandDistortion(v2.Transform):
    """Brightness and contrast of each band, each changed with probability 0.5: images of any bands, type and range.

    Adds up to half of the band's standard deviation, and multiplies the distance from its mean by 0.5 to 1.5.

    Args:
        mean: Mean of each band, in pixel values.
        std: Standard deviation of each band, in pixel values.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        def drawn(low: float, high: float, neutral: float) -> Tensor:
            values = torch.empty(len(self.mean), 1, 1).uniform_(low, high)
            return torch.where(torch.rand(len(self.mean), 1, 1) < 0.5, values, torch.tensor(neutral))

        return {"brightness": drawn(-0.5, 0.5, 0.0), "contrast": drawn(0.5, 1.5, 1.0)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        x = inpt.as_subclass(Tensor).float()
        x = (x - self.mean) * params["contrast"] + self.mean + params["brightness"] * self.std
        return tv_tensors.Image(x.round().clamp(0, 255).to(torch.uint8) if inpt.dtype == torch.uint8 else x)


class PadTo(v2.Transform):
    """Pad a smaller image on all sides to `crop`, (height, width), with `fill`, RGB of 0 to 255; the mask is ignored there.

    Source: hszhao/semseg util/transform.py, Crop.
    """

    def __init__(self, crop: tuple[int, int], fill: list[float]) -> None:
        super().__init__()
        self.crop, self.fill = crop, fill

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        height, width = (max(crop - side, 0) for side, crop in zip(inpt.shape[-2:], self.crop, strict=True))
        top, left = height // 2, width // 2
        return F.pad(inpt, [left, top, width - left, height - top], fill=_fill(inpt, self.fill))


def _rare_pixel(mask: Tensor) -> tuple[int, int] | None:
    """A pixel of a class that is drawn in inverse proportion to its pixels; None where all are ignored."""
    ids = mask.as_subclass(Tensor)
    counts, _ = _class_pixels(ids)
    if not counts.any():
        return None
    chosen = torch.multinomial(torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0), 1)
    pixels = (ids[chosen[0]] == 1 if ids.ndim == 3 else ids == chosen).nonzero()
    row, column = pixels[torch.randint(len(pixels), ())].tolist()
    return row, column


def _class_pixels(mask: Tensor) -> tuple[Tensor, int]:
    """The number of pixels of each class, and of all that count, of (H, W) ids or (classes, H, W) masks of 0, 1 and 255."""
    if mask.ndim == 3:
        return (mask == 1).sum((1, 2)), int((mask != IGNORE).any(0).sum())
    counts = torch.bincount(mask.flatten(), minlength=IGNORE + 1)[:IGNORE]
    return counts, int(counts.sum())


def _fill(inpt: Tensor, color: list[float]) -> float | list[float]:
    """The value outside the image."""
    if isinstance(inpt, tv_tensors.Mask):
        return IGNORE
    return 0.0 if isinstance(inpt, Coordinates) else color


def _rotate_and_crop(inpt: Tensor, window: Window, angle: float, fill: float | list[float]) -> Tensor:
    """A window of the image rotated by `angle` degrees; only the window is computed."""
    if not angle:
        return F.crop(inpt, *window)
    top, left, height, width = window
    full_height, full_width = inpt.shape[-2:]
    x, y = left + (width - full_width) / 2, top + (height - full_height) / 2  # from the image's centre to the window's
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # from positions in the window to positions in the image, both as fractions of half their sides
    theta = torch.tensor(
        [
            [cos * width / full_width, -sin * height / full_width, 2 * (cos * x - sin * y) / full_width],
            [sin * width / full_height, cos * height / full_height, 2 * (sin * x + cos * y) / full_height],
        ]
    )
    grid = functional.affine_grid(theta[None], [1, 1, height, width], align_corners=False)
    background = torch.tensor(fill, dtype=torch.float32).view(-1, 1, 1)
    pixels = inpt.as_subclass(Tensor).reshape(-1, full_height, full_width) - background
    mode = "nearest" if isinstance(inpt, tv_tensors.Mask) else "bilinear"
    rotated = functional.grid_sample(pixels[None], grid, mode, "zeros", align_corners=False)[0] + background
    rotated = rotated.reshape(*inpt.shape[:-2], height, width)
    return (rotated if inpt.is_floating_point() else rotated.round().to(torch.uint8)).as_subclass(type(inpt))


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _coin() -> bool:
    return bool(torch.rand(()) < 0.5)
