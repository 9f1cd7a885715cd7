"""Class masks as color images, overlays and legends."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..meta import IGNORE, Labels, Preprocess


def colorize(mask: np.ndarray, labels: Labels) -> np.ndarray:
    """Replace (H, W) ids by the colors of the classes, (H, W, 3) uint8 RGB; ignored pixels are black.

    Of (K, H, W) masks, a pixel of several classes has the mean of their colors, and one of none is black.
    """
    if mask.ndim == 2:
        return palette(labels)[mask]
    own, colors = (mask == 1).astype(np.float32), np.array(labels.colors, np.float32)
    return (np.einsum("khw,kc->hwc", own, colors) / own.sum(axis=0).clip(1)[..., None]).round().astype(np.uint8)


def palette(labels: Labels) -> np.ndarray:
    """Color of every id, (256 or more, 3) uint8; black where there is no class."""
    table = np.zeros((max(256, len(labels)), 3), np.uint8)
    table[: len(labels)] = np.array(labels.colors)
    return table


def stretched(pixels: np.ndarray, bands: Sequence[int] | None = None, percentiles: tuple[float, float] = (2, 98)) -> np.ndarray:
    """Three bands of (H, W, bands), or one as gray, as (H, W, 3) uint8; masked pixels are black.

    Args:
        pixels: Of any type.
        bands: One or three, from 0; None for the first three, or the first where there are fewer.
        percentiles: Those that become black and white, of each band.
    """
    chosen = list(bands or range(3 if pixels.shape[2] >= 3 else 1))
    shown = pixels[..., chosen * (3 // len(chosen))]
    known = ~np.ma.getmaskarray(shown)
    values, result = np.ma.getdata(shown).astype(np.float32), np.zeros(shown.shape, np.uint8)
    for band in range(3):
        if (inside := values[..., band][known[..., band]]).size:
            low, high = np.percentile(inside, percentiles)
            result[..., band] = np.clip((values[..., band] - low) / max(high - low, 1e-9) * 255, 0, 255).round()
    return result * known


def band_indexes(preprocess: Preprocess, bands: Sequence[int | str] | None) -> list[int] | None:
    """Indexes of the bands that a network reads, of names or numbers from 1; None of None.

    Raises:
        ValueError: If the network reads no such band, or they are not one or three.
    """
    if bands is None:
        return None
    names, count = preprocess.bands, len(preprocess.mean)
    known = {name: i for i, name in enumerate(names)} | {str(i + 1): i for i in range(count) if str(i + 1) not in names}
    if unknown := [band for band in bands if str(band) not in known]:
        raise ValueError(f"The network reads no band {unknown[0]!r}; it reads {', '.join(names) or f'the bands 1 to {count}'}")
    if len(bands) not in (1, 3):
        raise ValueError(f"{len(bands)} bands are to be shown; give one, or three for red, green and blue")
    return [known[str(band)] for band in bands]


def check_stretch(percentiles: tuple[float, float]) -> tuple[float, float]:
    """The percentiles that become black and white; a ValueError unless they are 0 to 100, the smaller first."""
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"stretch is {percentiles}; it must be two percentiles of 0 to 100, the smaller first")
    return percentiles


def overlay(image: np.ndarray, mask: np.ndarray, labels: Labels, alpha: float) -> np.ndarray:
    """Blend an image with the colors of the classes.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) ids; ignored pixels keep the image. Or (K, H, W) masks; pixels of no class keep it.
        labels: Labels of the ids.
        alpha: Opacity of the colors: 0 shows the image only, 1 the colors only.

    Raises:
        ValueError: If alpha is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be between 0 (image only) and 1 (colors only)")
    mixed = (image * np.float32(1 - alpha) + colorize(mask, labels) * np.float32(alpha)).round().astype(np.uint8)
    # with more classes than ignored ids, one of them has that id
    ignored = (mask == IGNORE) & (len(labels) <= IGNORE) if mask.ndim == 2 else ~(mask == 1).any(axis=0)
    return np.where(ignored[..., None], image, mixed)


def with_legend(image: Image.Image, labels: Labels, class_fractions: Mapping[str, float]) -> Image.Image:
    """Add a legend at the right of an image: color, name and percentage of its classes, the largest first.

    Args:
        image: RGB.
        labels: Colors of the names.
        class_fractions: Fraction of the pixels by class name, 0 to 1; those that would read 0.0% are omitted.
    """
    size = int(np.clip(image.height // 32, 12, 40))  # pixels of a line of text
    font = ImageFont.load_default(size)
    colors = dict(zip(labels.names, labels.colors, strict=True))
    rows = [
        (colors[name], f"{name}  {fraction:.1%}")
        for name, fraction in sorted(class_fractions.items(), key=lambda s: -s[1])
        if fraction >= 0.0005
    ]
    line, pad = round(size * 1.5), size // 2
    width = max((round(font.getlength(text)) for _, text in rows), default=0) + line + 2 * pad
    canvas = Image.new("RGB", (image.width + width, max(image.height, line * len(rows) + 2 * pad)), "white")
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left, top = image.width + pad, pad
    for color, text in rows:
        draw.rectangle((left, top + line // 6, left + size, top + line // 6 + size), fill=color, outline="black")
        draw.text((left + line, top + line // 6 + size // 2), text, fill="black", font=font, anchor="lm")
        top += line
    return canvas


def indexed(mask: np.ndarray, labels: Labels) -> Image.Image:
    """Make an image of (H, W) ids: 8 bits with the colors of the classes as palette, 16-bit grayscale for more than 255 classes."""
    image = Image.fromarray(mask)
    if mask.dtype == np.uint8:
        image.putpalette(palette(labels).tobytes())
    return image
