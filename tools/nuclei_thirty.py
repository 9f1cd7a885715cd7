"""Make the data of the tutorial "from outlines to a model": thirty labelled images of cell nuclei, and eight without labels.

    python -m tools.nuclei_thirty NUCLEI

NUCLEI is as in tools/nuclei_data.py, with `coco.json` beside it: the nuclei of some images as objects, polygons and run lengths.
Images for training and those without labels are of the train part of `tools/splits/nuclei.json`, images for validation of its val
part. Images are written without their alpha channel, which is 255 everywhere, and every nucleus as polygons, so that the files are
like those of a tool for labelling. Needs pycocotools and shapely.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pspnet_zoo.inference.outlines import find_polygons
from tools.nuclei_data import SPLIT

OUTPUT = Path(__file__).parent.parent / "docs" / "assets" / "nuclei"

KINDS = {
    "train": {"fluorescence, 256x256": 14, "fluorescence, 360x360": 4, "histology, white": 5},
    "val": {"fluorescence, 256x256": 4, "fluorescence, 360x360": 1, "fluorescence, other sizes": 1, "histology, white": 1},
    "unlabelled": {"fluorescence, 256x256": 4, "fluorescence, 360x360": 1, "histology, white": 1, "histology, purple": 2},
}
"""Numbers of images of each kind; nothing purple has labels, so that there is something new among the images without them."""

SIMPLIFY = 0.5
"""Pixels by which an outline may move to spare corners."""


def choose(split: Mapping[str, Any], labelled: Sequence[str]) -> dict[str, list[str]]:
    """The names of the images of each part: the first of each kind, by name.

    Args:
        split: As in `tools/splits/nuclei.json`.
        labelled: Names of the images with objects.
    """
    chosen: dict[str, list[str]] = {}
    taken: set[str] = set()
    for part, kinds in KINDS.items():
        chosen[part] = []
        for kind, count in kinds.items():
            names = split["val" if part == "val" else "train"][kind]
            free = [name for name in sorted(names) if name not in taken and (part == "unlabelled" or name in labelled)]
            chosen[part] += free[:count]
            taken.update(free[:count])
    return chosen


def pixels_of(shape: Any, height: int, width: int) -> np.ndarray:
    """The (H, W) bool pixels of an object of `coco.json`, whose polygons run through the centres of their outermost pixels."""
    if isinstance(shape, list):
        image = Image.new("1", (width, height))
        for ring in shape:
            ImageDraw.Draw(image).polygon(ring, fill=1, outline=1)
        return np.array(image)
    from pycocotools import mask

    runs = mask.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
    return mask.decode(runs).astype(bool)  # type: ignore


def coco(names: Sequence[str], source: Mapping[str, Any]) -> dict[str, Any]:
    """The images and their nuclei, as polygons of whole pixels."""
    images, annotations = [], []
    for number, name in enumerate(names, 1):
        image = next(image for image in source["images"] if image["file_name"] == f"{name}.png")
        height, width = image["height"], image["width"]
        images.append({"id": number, "file_name": f"{name}.png", "width": width, "height": height})
        for each in source["annotations"]:
            if each["image_id"] != image["id"]:
                continue
            pixels = pixels_of(each["segmentation"], height, width)
            polygons = find_polygons(pixels.astype(np.uint8), 1, simplify=SIMPLIFY, holes=False)
            corners = np.concatenate([polygon.exterior for polygon in polygons])
            left, top, right, bottom = [*corners.min(0).astype(int).tolist(), *corners.max(0).astype(int).tolist()]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": [polygon.exterior.astype(int).ravel().tolist() for polygon in polygons],
                    "area": int(pixels.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "nucleus", "supercategory": ""}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nuclei", type=Path)
    nuclei = parser.parse_args().nuclei
    source = json.loads((nuclei / "coco.json").read_text())
    chosen = choose(json.loads(SPLIT.read_text()), [Path(image["file_name"]).stem for image in source["images"]])
    for folder in ("images", "annotations", "unlabelled"):
        (OUTPUT / folder).mkdir(parents=True, exist_ok=True)
    for part, names in chosen.items():
        for name in names:
            image = Image.open(nuclei / "images" / f"{name}.png").convert("RGB")
            image.save(OUTPUT / ("unlabelled" if part == "unlabelled" else "images") / f"{name}.png", optimize=True)
        if part != "unlabelled":
            text = json.dumps(coco(names, source), separators=(",", ":"))
            (OUTPUT / "annotations" / f"instances_{part}.json").write_text(f"{text}\n")
    print(f"Wrote {OUTPUT}, {sum(f.stat().st_size for f in OUTPUT.rglob('*') if f.is_file()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
