"""Draw the images of docs/explanation/photos.md, and the first image of the documentation, with the bundled street weights.

    python -m tools.photos_page PHOTOS

PHOTOS holds the eight photos of github ualsg/global-streetscapes, code/download_imgs/sample_output, that the page names, each
as the first eight characters of its name and .jpg; those of Lund are in docs/assets. Each image is the photo and the prediction
over it.
"""

import sys
from pathlib import Path

from PIL import Image

import pspnet_zoo

ASSETS = Path(__file__).parent.parent / "docs" / "assets"
LUND = ("lund_01", "lund_10", "lund_20", "lund_29")
SIZE = (480, 360)


def main() -> None:
    """See the module."""
    predictor = pspnet_zoo.Predictor("pspnet_lite0.camvid")
    photos = [ASSETS / f"{name}.jpg" for name in LUND] + sorted(Path(sys.argv[1]).glob("*.jpg"))
    for path in photos:
        photo = Image.open(path).convert("RGB")
        prediction = predictor(photo)
        both = Image.new("RGB", (2 * SIZE[0], SIZE[1]))
        for column, image in enumerate((photo, prediction.overlay(0.5))):
            both.paste(image.resize(SIZE, Image.Resampling.LANCZOS), (column * SIZE[0], 0))
        both.save(ASSETS / "photos" / f"{path.stem}.jpg", quality=80)
        if path.stem == "lund_20":
            prediction.overlay(legend=True).save(ASSETS / "lund_20_overlay.jpg", quality=88)
        print(f"Wrote {ASSETS / 'photos' / path.stem}.jpg")


if __name__ == "__main__":
    main()
