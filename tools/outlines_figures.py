"""The figures of the tutorial of thirty images, from the folder that its commands wrote.

python -m tools.outlines_figures thirty
"""

import argparse
from pathlib import Path

from PIL import Image

FIGURES = Path(__file__).parent.parent / "docs" / "assets" / "figures"

SOURCES = {
    "outlines_sheet.jpg": "data/contact_sheet.png",
    "outlines_draft.jpg": "drafts/14cc1424c598_overlay.png",
    "outlines_ranking.jpg": "ranking.png",
}
"""The file that each figure shows."""

WIDTH = 900
"""Pixels; wider files are made smaller."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, source in SOURCES.items():
        image = Image.open(folder / source).convert("RGB")
        if image.width > WIDTH:
            image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
        image.save(FIGURES / name, quality=85)
        print(f"Wrote {FIGURES / name}, {(FIGURES / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
