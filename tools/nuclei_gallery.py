"""Draw docs/assets/nuclei.jpg: test images of several kinds, with the outlines of what the bundled nuclei weights predict.

    python -m tools.nuclei_gallery NUCLEI

NUCLEI holds `images/` of the 2018 Data Science Bowl (CC0 1.0). Dark images are shown brighter than they are.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import pspnet_zoo
from tools.nuclei_data import SPLIT

KINDS = (
    "fluorescence, 256x256",
    "fluorescence, 360x360",
    "fluorescence, 696x520",
    "fluorescence, 640x512",
    "histology, purple",
    "histology, white",
)
PANEL = (360, 270)
OUTLINE = (255, 140, 0)
TARGET = Path(__file__).parent.parent / "docs" / "assets" / "nuclei.jpg"


def panel(image: Image.Image, mask: np.ndarray | None) -> Image.Image:
    """An image filled into PANEL, with the outlines of a mask's regions."""
    pixels = np.asarray(image).astype(np.float32)
    if np.median(pixels) < 60:
        pixels = pixels * (255 / max(np.percentile(pixels, 99.8), 1))
    factor = max(PANEL[0] / image.width, PANEL[1] / image.height)
    size = round(image.width * factor), round(image.height * factor)
    large = np.array(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC))
    if mask is not None:
        inside = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)) > 127
        edge = inside & ~(np.roll(inside, 2, 0) & np.roll(inside, -2, 0) & np.roll(inside, 2, 1) & np.roll(inside, -2, 1))
        large[edge] = OUTLINE
    return Image.fromarray(large[: PANEL[1], : PANEL[0]])


def main() -> None:
    """See the module."""
    predictor = pspnet_zoo.Predictor("pspnet_lite0.nuclei")
    test = json.loads(SPLIT.read_text())["test"]
    sheet = Image.new("RGB", (3 * (PANEL[0] + 6) - 6, 4 * (PANEL[1] + 6) - 6), "white")
    for number, kind in enumerate(KINDS):
        # the middle one by name: no image is chosen by how it comes out
        name = test[kind][len(test[kind]) // 2]
        image = Image.open(Path(sys.argv[1]) / "images" / f"{name}.png").convert("RGB")
        row, column = divmod(number, 3)
        x, y = column * (PANEL[0] + 6), 2 * row * (PANEL[1] + 6)
        sheet.paste(panel(image, None), (x, y))
        sheet.paste(panel(image, predictor(image).mask == 1), (x, y + PANEL[1] + 6))
        print(kind, name)
    sheet.save(TARGET, quality=85)
    print(f"Wrote {TARGET}")


if __name__ == "__main__":
    main()
