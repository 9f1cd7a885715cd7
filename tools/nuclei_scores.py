"""Print foreground IoU, Dice and boundary F1 of predicted masks, over all pixels of all images together.

    python -m tools.nuclei_scores NUCLEI_FOLDERS/test/masks PREDICTIONS

Both folders hold PNG masks with the ids 0 (background) and 1 (nucleus); `pspnet-zoo evaluate --save-predictions` writes the
second, NAME_mask.png for NAME.png. A boundary pixel is a nucleus pixel with a background pixel above, below, left or right of
it. Precision is the fraction of the predicted boundary pixels within TOLERANCE pixels of a boundary pixel of the ground truth,
recall the reverse; F1 is their harmonic mean. Touching nuclei have one common outline in both.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

TOLERANCE = 2
"""In pixels of the image as it is, by the larger of the row and column distances."""


def boundary(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a (H, W) bool mask that have one of four neighbours outside it; the image's edge is none."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def near(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels within TOLERANCE of one of the mask's."""
    grown = F.max_pool2d(torch.from_numpy(mask)[None].float(), 2 * TOLERANCE + 1, stride=1, padding=TOLERANCE)
    return grown[0].numpy() > 0


def main() -> None:
    """See the module."""
    truth_folder, predicted_folder = map(Path, sys.argv[1:])
    hits = union = truth_pixels = predicted_pixels = 0
    found = np.zeros(4, np.int64)
    files = sorted(truth_folder.glob("*.png"))
    for file in files:
        truth = np.asarray(Image.open(file)) == 1
        predicted = np.asarray(Image.open(predicted_folder / f"{file.stem}_mask.png")) == 1
        hits += int((truth & predicted).sum())
        union += int((truth | predicted).sum())
        truth_pixels += int(truth.sum())
        predicted_pixels += int(predicted.sum())
        outline, predicted_outline = boundary(truth), boundary(predicted)
        found += [
            (predicted_outline & near(outline)).sum(),
            predicted_outline.sum(),
            (outline & near(predicted_outline)).sum(),
            outline.sum(),
        ]
    precision, recall = found[0] / found[1], found[2] / found[3]
    print(f"{len(files)} images")
    print(f"foreground IoU {hits / union:.4f}")
    print(f"Dice           {2 * hits / (truth_pixels + predicted_pixels):.4f}")
    print(f"boundary F1    {2 * precision * recall / (precision + recall):.4f}  (precision {precision:.4f}, recall {recall:.4f})")


if __name__ == "__main__":
    main()
