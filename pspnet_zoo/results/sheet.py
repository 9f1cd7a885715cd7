"""A contact sheet: a few images under their masks, to look at before anything is trained."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..inference import draw
from ..meta import IGNORE, Labels

_SIDE = 320  # pixels of one image of the sheet
_COLUMNS = 4


def contact_sheet(items: Iterable[tuple[str, np.ndarray, np.ndarray]], labels: Labels, *, columns: int = _COLUMNS) -> Image.Image:
    """Images under the colors of their masks, in rows, with their names below and the classes at the bottom.

    Ignored pixels are hatched in black and white; a class whose color is black, as background is, has none.

    Args:
        items: Of each a name, the image (H, W, 3) uint8 RGB, and the mask, (H, W) class ids or (classes, H, W), 255 where ignored.
        labels: Names and colors of the ids.
        columns: Images in a row.
    """
    cells = [_cell(*item, labels) for item in items]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    legend = _legend(labels, _SIDE * min(columns, max(len(cells), 1)))
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (legend.width, sum(heights) + legend.height), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * _SIDE, top))
        top += height
    sheet.paste(legend, (0, top))
    return sheet


def _cell(name: str, image: np.ndarray, mask: np.ndarray, labels: Labels) -> Image.Image:
    colored = draw.colorize(mask, labels).any(2, keepdims=True)
    mixed = np.where(colored, draw.overlay(image, mask, labels, 0.5), image)
    rows, columns = np.indices(mask.shape[-2:])
    period = max(8, max(mask.shape[-2:]) // 40)
    ignored = mask == IGNORE if mask.ndim == 2 else (mask == IGNORE).all(axis=0)
    hatched = ignored & ((rows + columns) % period < period // 4)
    mixed[hatched] = np.where((rows + columns)[hatched] % (2 * period) < period, 0, 255)[:, None]
    shown = Image.fromarray(mixed)
    shown.thumbnail((_SIDE - 8, _SIDE - 8))
    font = ImageFont.load_default(13)
    cell = Image.new("RGB", (_SIDE, shown.height + 26), "white")
    cell.paste(shown, (4, 4))
    while len(name) > 4 and font.getlength(name) > _SIDE - 8:
        name = name[: len(name) // 2 - 2] + "..." + name[len(name) // 2 + 2 :]
    ImageDraw.Draw(cell).text((4, shown.height + 7), name, fill="black", font=font)
    return cell


def _legend(labels: Labels, width: int) -> Image.Image:
    font = ImageFont.load_default(14)
    entries: Sequence[tuple[str, tuple[int, int, int] | None]] = [*zip(labels.names, labels.colors, strict=True), ("ignored", None)]
    places, left, top = [], 8, 8
    for name, color in entries:
        length = round(font.getlength(name)) + 40
        if left + length > width and left > 8:
            left, top = 8, top + 24
        places.append((left, top, name, color))
        left += length
    image = Image.new("RGB", (width, top + 30), "white")
    pen = ImageDraw.Draw(image)
    for left, top, name, color in places:
        pen.rectangle((left, top, left + 15, top + 15), fill=color, outline="black")
        if color is None:
            pen.line((left, top + 15, left + 15, top), fill="black")
        pen.text((left + 22, top + 8), name, fill="black", font=font, anchor="lm")
    return image
