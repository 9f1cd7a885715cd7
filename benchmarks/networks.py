"""Whole networks side by side in one process, in turns: PSPNet on ResNet-50 in our runtimes, and what else there is.

    pip install '.[benchmarks]'
    python -m benchmarks.networks [--size 512x1024] [--rounds 7] [--only mmseg,torch-fast]

All have random weights and 19 classes, take one image, and give scores at its size. Prints a Markdown table; a ratio is the
median over the rounds of a contender's time divided by that of the first in the same round. docs/explanation/speed.md shows one.
"""

import argparse
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import pspnet_zoo
from pspnet_zoo.deployment.benchmark import RUNTIMES, build_runtime, machine, parse_size

CLASSES = 19
PHOTOS = Path(__file__).parent.parent / "docs" / "assets" / "photos"
"""Calibrate int8; what is in them does not change its time."""

Network = Callable[[Tensor], Any]


def mmseg() -> Network:
    """The network of mmsegmentation's configs/_base_/models/pspnet_r50-d8.py, and its resize to the image."""
    # PSPNet takes nothing from mmcv's compiled operators, but importing mmseg asks for their names; mmcv-lite has none
    operators = types.ModuleType("mmcv.ops")
    operators.__dict__.update(dict.fromkeys(("point_sample", "sigmoid_focal_loss", "CrissCrossAttention", "PSAMask"), nn.Module))
    sys.modules["mmcv.ops"] = operators
    from mmseg.models import EncoderDecoder  # pyright: ignore[reportMissingImports]
    from mmseg.utils import register_all_modules  # pyright: ignore[reportMissingImports]

    register_all_modules()
    norm = {"type": "BN", "requires_grad": True}
    dilated = {"dilations": (1, 1, 2, 4), "strides": (1, 2, 1, 1), "contract_dilation": True}
    network = EncoderDecoder(
        backbone={"type": "ResNetV1c", "depth": 50, "norm_cfg": norm, **dilated},
        decode_head={
            "type": "PSPHead",
            "in_channels": 2048,
            "in_index": 3,
            "channels": 512,
            "num_classes": CLASSES,
            "norm_cfg": norm,
            "align_corners": False,
        },
        test_cfg={"mode": "whole"},
    ).eval()
    return lambda x: network.encode_decode(x, [{"img_shape": tuple(x.shape[-2:])}])


def smp() -> Network:
    """segmentation-models-pytorch's PSPNet at its default depth, which leaves out the encoder's last two stages."""
    import segmentation_models_pytorch

    return segmentation_models_pytorch.PSPNet("resnet50", encoder_weights=None, classes=CLASSES).eval()


def torchvision(name: str) -> Network:
    """A segmentation network of torchvision on ResNet-50."""
    from torchvision.models import get_model

    network = get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    return lambda x: network(x)["out"]


OTHERS: dict[str, Callable[[], Network]] = {
    "mmseg": mmseg,
    "smp": smp,
    "torchvision fcn_resnet50": lambda: torchvision("fcn_resnet50"),
    "torchvision deeplabv3_resnet50": lambda: torchvision("deeplabv3_resnet50"),
}


def build(name: str, folder: Path) -> Network:
    """A contender, warm-up excluded."""
    if name in OTHERS:
        return OTHERS[name]()
    torch.manual_seed(0)
    network = pspnet_zoo.create("pspnet_r50c", classes=CLASSES, align_corners=False).eval()
    return build_runtime(name, network, folder, None, PHOTOS)


@torch.inference_mode()
def compare(names: list[str], size: tuple[int, int], rounds: int) -> dict[str, list[float]]:
    """Seconds an image of each contender, by rounds; two images warm each up."""
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        networks = {}
        for name in names:
            print(f"building {name}", file=sys.stderr)
            networks[name] = build(name, Path(folder))
            for _ in range(2):
                networks[name](x)
        for turn in range(rounds):
            print(f"round {turn + 1} of {rounds}", file=sys.stderr)
            for name, network in networks.items():
                start = time.perf_counter()
                network(x)
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Run the command."""
    everything = [*OTHERS, *RUNTIMES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=(512, 1024), help="height and width in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", help=f"some of {','.join(everything)}; the first is compared with")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else everything
    if unknown := set(names) - set(everything):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore", module="mmseg|mmengine")
    seconds = compare(names, options.size, options.rounds)
    print("| network | s | ratio |\n|---|---|---|")
    for name, own in seconds.items():
        ratio = median(a / b for a, b in zip(own, seconds[names[0]], strict=True))
        print(f"| {name} | {median(own):.2f} | {ratio:.2f} |")
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
