"""Compare what `--recipe auto` chooses with the SGD of the recipe finetune: same images, steps and seeds, rates tried alike.

    python -m benchmarks.recipes DATA --dataset camvid --lite0 lite0.safetensors --lite2 lite2.safetensors -o runs/recipes

For each backbone and recipe, the rates 0.3, 1 and 3 times the recipe's are tried with the first seed, and the one with the highest
mIoU on val is trained with all seeds. Where SGD is what `auto` chooses, there is one line. What is done already, in
OUTPUT/results.jsonl, is not done again. The table is printed in Markdown, with the spread of the seeds; it compares on val, where
the rates were chosen too.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Subset

from pspnet_zoo import PSPNet, open_dataset, train
from pspnet_zoo.data.dataset import as_segmentation_dataset
from pspnet_zoo.training.recipes import RECIPES, choose_recipe

FACTORS = (0.3, 1.0, 3.0)
BACKBONES = {
    "resnet18": None,
    "tf_efficientnet_lite0": "lite0",
    "tf_efficientnet_lite2": "lite2",
    "convnext_atto": None,
    "vit_tiny_patch16_224": None,
}
"""The encoder, and the option with the file of its ImageNet weights; None starts from scratch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dataset", default="folder")
    for name in ("lite0", "lite2"):
        parser.add_argument(f"--{name}", type=Path, help=f"ImageNet weights; without them {name} starts from scratch")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=(240, 320))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="no")
    parser.add_argument("--val-every", type=int, default=1, metavar="N", help="compare on every Nth val image")
    parser.add_argument("--backbones", nargs="*", default=list(BACKBONES))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = arguments.output / "results.jsonl"
    done = {line["key"]: line for line in map(json.loads, results.read_text().splitlines())} if results.exists() else {}

    def miou(encoder: str, recipe: str, factor: float, seed: int) -> float:
        key = f"{encoder} {recipe} {factor} {seed}"
        if key not in done:
            started = time.monotonic()
            done[key] = {"key": key, "miou": run(arguments, encoder, recipe, factor, seed), "seconds": time.monotonic() - started}
            with results.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
        return done[key]["miou"]

    titles = ("encoder", "weights", "recipe", "rate", "mIoU on val of each seed", "mean", "standard deviation")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for encoder in arguments.backbones:
        weights = weights_of(arguments, encoder)
        convolutional = PSPNet(encoder, None).encoder.mechanism == "dilated"
        chosen, _ = choose_recipe(encoder, convolutional=convolutional, pretrained=weights is not None)
        for recipe in dict.fromkeys(["finetune", chosen]):
            best = max(FACTORS, key=lambda factor: miou(encoder, recipe, factor, 0))
            mious = [miou(encoder, recipe, best, seed) for seed in range(arguments.seeds)]
            name = f"{recipe}{' (auto)' if recipe == chosen else ''}"
            numbers = f"{' '.join(f'{m:.3f}' for m in mious)} | {statistics.mean(mious):.3f} | {statistics.stdev(mious):.3f}"
            rate = RECIPES[recipe].recipe.lr * best
            print(f"| {encoder} | {'ImageNet' if weights else 'none'} | {name} | {rate:.2g} | {numbers} |", flush=True)


def weights_of(arguments: argparse.Namespace, encoder: str) -> str | None:
    """The file of the encoder's ImageNet weights."""
    option = BACKBONES.get(encoder)
    file = getattr(arguments, option) if option else None
    return str(file) if file else None


def run(arguments: argparse.Namespace, encoder: str, recipe: str, factor: float, seed: int) -> float:
    """The mIoU on val after the last step."""
    data, all_of_val = (open_dataset(arguments.dataset, arguments.data, split) for split in ("train", "val"))
    val = as_segmentation_dataset(Subset(all_of_val, range(0, len(all_of_val), arguments.val_every)))  # type: ignore[arg-type]
    base = RECIPES[recipe].recipe
    recipe_now = replace(
        base,
        iterations=arguments.steps,
        batch_size=arguments.batch_size,
        crop=tuple(arguments.crop),
        lr=base.lr * factor,
        warmup=min(base.warmup, arguments.steps // 10),
        seed=seed,
        precision=arguments.precision,
        evaluate_every=arguments.steps,
        checkpoint_every=arguments.steps,
    )
    torch.manual_seed(seed)
    labels = data.labels
    net = PSPNet(encoder, weights_of(arguments, encoder), classes=len(labels), aux_head=True)
    net.labels = labels
    folder = arguments.output / f"{encoder}-{recipe}-{factor}-{seed}"
    result = train(net, data, recipe_now, folder, validation=val, log=())
    assert result.last_miou is not None
    return result.last_miou


if __name__ == "__main__":
    main()
