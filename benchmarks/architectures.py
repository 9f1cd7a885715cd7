"""Processor time of the architectures that have Cityscapes weights, relative to PSPNet on ResNet-50, in turns.

    python -m benchmarks.architectures [--size 512x1024] [--rounds 3] [--only pspnet_r18c,pspnet_lite0.camvid]

Random weights, 19 classes, one image, float32, one thread, as `Predictor` runs them. Processor time of one thread hardly depends on
other processes of the machine. The page docs/how-to/choose-a-model.md is made from the printed ratios.
"""

import argparse
import time
from statistics import median

import numpy as np
import torch

import pspnet_zoo
from pspnet_zoo.data.labels import CITYSCAPES

REFERENCE = "pspnet_r50c"


def predictor(architecture: str) -> pspnet_zoo.Predictor:
    """With random weights; a checkpoint's name keeps its own weights and preprocessing."""
    if "." in architecture:
        return pspnet_zoo.Predictor(architecture, device="cpu")
    model = pspnet_zoo.create(architecture, classes=len(CITYSCAPES)).eval()
    model.labels = CITYSCAPES
    return pspnet_zoo.Predictor(model, device="cpu")


def seconds(run: pspnet_zoo.Predictor, image: np.ndarray) -> float:
    """Processor time of one prediction."""
    started = time.process_time()
    run(image)
    return time.process_time() - started


def main() -> None:
    """Print a line for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="512x1024")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="Architectures or checkpoints, separated by commas.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    height, width = map(int, arguments.size.split("x"))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    checkpoints = [
        entry for entry in map(pspnet_zoo.find_checkpoint, pspnet_zoo.list_models(pretrained=True)) if "cityscapes" in entry.tag
    ]
    reference = predictor(REFERENCE)
    names = [*sorted({entry.architecture for entry in checkpoints}), "pspnet_lite0", "pspnet_lite0.camvid"]
    for name in arguments.only.split(",") if arguments.only else names:
        run = predictor(name)
        pairs = [(seconds(run, image), seconds(reference, image)) for _ in range(arguments.rounds + 1)][1:]  # the first warms up
        ratio = median(one / other for one, other in pairs)
        print(f"{name:28} {ratio:.2f}   ({median(one for one, _ in pairs):.2f} s)", flush=True)


if __name__ == "__main__":
    main()
