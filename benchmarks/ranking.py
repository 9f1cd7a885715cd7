"""Train on the images that `rank` picks and on as many random ones, with the same budget, and compare on CamVid's val split.

python benchmarks/ranking.py CAMVID --images 60

A first network is trained on a tenth of the images; it ranks the rest. Both contenders then train from the ImageNet weights, on the
first images and on those that the ranking adds or chance does. At output stride 16, a step takes a few seconds of one core.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch.utils.data import Subset

import pspnet_zoo
from pspnet_zoo.data.dataset import SegmentationDataset, as_segmentation_dataset
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.evaluation.ranking import features_of, rank, uncertainty_of
from pspnet_zoo.training.recipes import RECIPES, Recipe

OUTPUT_STRIDE = 16
RECIPE = replace(
    RECIPES["camvid"].recipe,
    batch_size=6,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.02,
    warmup=20,
    ema_decay=0.95,
    evaluate_every=0,
)


def trained(dataset: SegmentationDataset, chosen: list[int], recipe: Recipe, model: str, weights: str | None) -> pspnet_zoo.PSPNet:
    """A network trained on some images of the dataset."""
    torch.manual_seed(recipe.seed)
    network = pspnet_zoo.create(model, classes=len(CAMVID), encoder_weights=weights, encoder_output_stride=OUTPUT_STRIDE)
    network.labels = CAMVID
    with tempfile.TemporaryDirectory() as folder:
        pspnet_zoo.train(network, as_segmentation_dataset(Subset(dataset, chosen)), recipe, Path(folder, "run"))  # type: ignore[arg-type]
    return network.eval()


def picked(dataset: SegmentationDataset, start: list[int], count: int, network: pspnet_zoo.PSPNet) -> list[int]:
    """The first images and as many others as make `count`, by the ranking."""
    left = sorted(set(range(len(dataset))) - set(start))
    found = [uncertainty_of(network, dataset[i][0])[0] for i in left]
    features, known = (torch.stack([features_of(network, dataset[i][0]) for i in which]) for which in (left, start))
    return start + [left[i] for i, _ in rank(found, features, known)[: count - len(start)]]


def compare(
    root: Path, count: int, seeds: Iterable[int], recipe: Recipe, model: str, weights: str | None
) -> dict[str, list[float]]:
    """The mIoU of each seed by contender."""
    dataset, val = (pspnet_zoo.open_dataset("camvid", root, split) for split in ("train", "val"))
    results: dict[str, list[float]] = {"ranked": [], "random": []}
    for seed in seeds:
        order = random.Random(seed).sample(range(len(dataset)), len(dataset))
        start, settings = order[: max(count // 10, 1)], replace(recipe, seed=seed)
        first = trained(dataset, start, settings, model, weights)
        for name, chosen in (("ranked", picked(dataset, start, count, first)), ("random", order[:count])):
            network = trained(dataset, chosen, settings, model, weights)
            results[name].append(pspnet_zoo.evaluate(network, val).miou)
            print(f"seed {seed}, {name}: mIoU {results[name][-1]:.4f}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", type=Path)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of each contender for each")
    parser.add_argument("--encoder-weights", default="imagenet")
    options = parser.parse_args()
    recipe = replace(RECIPE, iterations=options.iterations)
    found = compare(options.camvid, options.images, options.seeds, recipe, "pspnet_lite0", options.encoder_weights)
    print(json.dumps({**found, "mean": {name: mean(values) for name, values in found.items()}}, indent=2))


if __name__ == "__main__":
    main()
