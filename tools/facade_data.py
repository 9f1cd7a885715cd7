"""Split and prepare LabelMeFacade, the street photos with masks on which the bundled street weights are trained beside CamVid.

    python -m tools.facade_data split LABELMEFACADE tools/splits/labelmefacade.json
    python -m tools.facade_data prepare LABELMEFACADE FACADE

LABELMEFACADE holds `images/` (JPEG) and `labels/` (colour masks of the same stems). Source: github cvjena/labelmefacade;
research and non-commercial use; no image of it is part of this repository. `split` writes which photo is in train or heldout:
photos of one place stay together, the two largest scenes are train, and the others are drawn.

`prepare` writes the folder layout with CamVid's eleven classes: doors and windows are building, black is ignored. Training
photos are resized to the area of 512x384 pixels, since a network with the input scale factor 2 is given most photos of this
dataset at 1024x768; `heldout` keeps its size. The masks do not know poles, signs, fences, people and bicycles;
tools/train_streets.py leaves them out of the loss.
"""

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SPLIT = Path(__file__).parent / "splits" / "labelmefacade.json"
HELD_OUT = 0.35
ALWAYS_TRAIN = ("cambridge_uk", "spatial_envelope")
"""81 photos of the city of CamVid, which is no other city, and 96 of many cities under one name."""

PLACES = {
    "cambridge_uk": "cambridge_uk",
    "spatial_envelope": "spatial_envelope",
    # Cambridge in Massachusetts lies beside Boston; scenes named by date alone are of the same campus
    "boston": r"boston|cambridge|highland|techsquare|porter|kendall|harvard|statacenter|^(dec|nov\d+|database)_static",
    "barcelona": "barcelona|palafrugel",
    "mallorca": "mallorca|palma",
    "coruna": "coruna|galicia",
    "madrid": "madrid",
    "valladolid": "valladolid|benavente",
}
"""Which scenes are of one place, by a pattern of their names, the first that fits; another scene is a place of its own."""

COLORS = {
    (128, 0, 0): 1,  # building
    (128, 0, 128): 8,  # car
    (128, 128, 0): 1,  # door
    (128, 128, 128): 4,  # pavement
    (128, 64, 0): 3,  # road
    (0, 128, 128): 0,  # sky
    (0, 128, 0): 5,  # vegetation
    (0, 0, 128): 1,  # window
}
"""CamVid's class ids. Source: the README of github cvjena/labelmefacade for the colours."""

AREA = 512 * 384
IGNORE = 255


def place_of(scene: str) -> str:
    """The place of a scene, `PLACES`."""
    return next((place for place, pattern in PLACES.items() if re.search(pattern, scene)), scene)


def split(stems: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """The stems of train and of heldout."""
    places = defaultdict(list)
    for stem in sorted(stems):
        places[place_of(stem.split("__")[0])].append(stem)
    drawn = sorted(set(places) - set(ALWAYS_TRAIN))
    random.Random(seed).shuffle(drawn)
    parts: dict[str, list[str]] = {"train": [], "heldout": []}
    for place in [*ALWAYS_TRAIN, *drawn]:
        fits = len(parts["heldout"]) + len(places[place]) <= HELD_OUT * len(stems)
        parts["heldout" if fits and place not in ALWAYS_TRAIN else "train"] += places[place]
    return {part: sorted(found) for part, found in parts.items()}


def class_ids(mask: np.ndarray) -> np.ndarray:
    """(H, W) uint8 ids of CamVid's classes from an (H, W, 3) colour mask; 255 for black.

    Raises:
        ValueError: If a colour is not one of the dataset's.
    """
    ids = np.full(mask.shape[:2], IGNORE, np.uint8)
    known = (mask == 0).all(axis=2)
    for color, number in COLORS.items():
        of_class = (mask == color).all(axis=2)
        ids[of_class] = number
        known |= of_class
    if not known.all():
        raise ValueError(f"The mask has colours that are not of LabelMeFacade, such as {mask[~known][0].tolist()}")
    return ids


def prepare(source: Path, target: Path) -> None:
    """Write the folder layout of the split."""
    from pspnet_zoo.data.labels import CAMVID

    target.mkdir(parents=True, exist_ok=True)
    (target / "classes.json").write_text(json.dumps({"names": CAMVID.names, "colors": CAMVID.colors}))
    for part, stems in json.loads(SPLIT.read_text()).items():
        for kind in ("images", "masks"):
            (target / part / kind).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            image = Image.open(source / "images" / f"{stem}.jpg").convert("RGB")
            mask = Image.fromarray(class_ids(np.asarray(Image.open(source / "labels" / f"{stem}.png").convert("RGB"))))
            if part == "train":
                factor = (AREA / (image.width * image.height)) ** 0.5
                size = round(image.width * factor), round(image.height * factor)
                image, mask = image.resize(size, Image.Resampling.LANCZOS), mask.resize(size, Image.Resampling.NEAREST)
            image.save(target / part / "images" / f"{stem}.png")
            mask.save(target / part / "masks" / f"{stem}.png")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("split", "prepare"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "prepare":
        prepare(arguments.source, arguments.target)
        return
    parts = split([p.stem for p in (arguments.source / "images").glob("*.jpg")])
    arguments.target.write_text(json.dumps(parts, indent=1) + "\n")
    for part, stems in parts.items():
        places = sorted({place_of(s.split("__")[0]) for s in stems})
        print(f"{part}: {len(stems)} photos of {len(places)} places: {', '.join(places)}")


if __name__ == "__main__":
    main()
