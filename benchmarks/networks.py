"""Whole networks side by side in one process, in turns: PSPNet on ResNet-50 in our runtimes, and what else there is.

    pip install '.[benchmarks]'
    python -m benchmarks.networks [--size 512x1024] [--batch-size 1] [--rounds 7] [--only mmseg,torch-fast]
    python -m benchmarks.networks --device cuda [--only mmseg/float16,ours/float16]

All have random weights and 19 classes, and give scores at the size of the image. Prints a Markdown table for each size and batch
size; a ratio is the median over the rounds of a contender's time divided by that of the first in the same round.
docs/explanation/speed.md shows one.
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

FORMS = {
    "float32": (torch.float32, torch.contiguous_format, False),
    "channels_last": (torch.float32, torch.channels_last, False),
    "float16": (torch.float16, torch.channels_last, False),
    "bfloat16": (torch.bfloat16, torch.channels_last, False),
    "compiled": (torch.float16, torch.channels_last, True),
}
"""Type and memory format of weights and image, and whether the network is compiled."""


class Scores(nn.Module):
    """A network of another package, called in its own way for scores at the size of the image."""

    def __init__(self, network: nn.Module, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.network, x)


def ours() -> pspnet_zoo.PSPNet:
    """The same network as mmsegmentation's, of this package."""
    torch.manual_seed(0)
    return pspnet_zoo.create("pspnet_r50c", classes=CLASSES, align_corners=False)


def mmseg() -> nn.Module:
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
    )
    return Scores(network, lambda network, x: network.encode_decode(x, [{"img_shape": tuple(x.shape[-2:])}]))


def smp() -> nn.Module:
    """segmentation-models-pytorch's PSPNet at its default depth, which leaves out the encoder's last two stages."""
    import segmentation_models_pytorch

    return segmentation_models_pytorch.PSPNet("resnet50", encoder_weights=None, classes=CLASSES)


def torchvision(name: str) -> nn.Module:
    """A segmentation network of torchvision on ResNet-50."""
    from torchvision.models import get_model

    network = get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES)
    return Scores(network, lambda network, x: network(x)["out"])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mmseg": mmseg,
    "smp": smp,
    "torchvision fcn_resnet50": lambda: torchvision("fcn_resnet50"),
    "torchvision deeplabv3_resnet50": lambda: torchvision("deeplabv3_resnet50"),
    "ours": ours,
}
DEFAULT = {
    "cpu": [*(name for name in NETWORKS if name != "ours"), *RUNTIMES],
    "cuda": [*NETWORKS, "mmseg/float16", *(f"ours/{form}" for form in FORMS if form != "float32")],
}


def build(name: str, device: str, folder: Path) -> Network:
    """A contender, warm-up excluded: one of `RUNTIMES` on the CPU, or NETWORK or NETWORK/FORM on the device.

    Raises:
        ValueError: If there is no such contender.
    """
    if name in RUNTIMES and device == "cpu":
        return build_runtime(name, ours().eval(), folder, None, PHOTOS)
    key, _, form = name.partition("/")
    if key not in NETWORKS or (form and form not in FORMS):
        raise ValueError(
            f"There is no contender '{name}' on '{device}'; choose from {', '.join(DEFAULT[device])}, or NETWORK/FORM "
            f"with one of {', '.join(FORMS)}"
        )
    dtype, memory_format, compiled = FORMS[form or "float32"]
    placement: Any = {"device": device, "dtype": dtype, "memory_format": memory_format}
    network = NETWORKS[key]().eval().to(**placement)
    call = torch.compile(network) if compiled else network
    return lambda x: call(x.to(**placement))


def seconds_of(network: Network, x: Tensor) -> float:
    """Wall time of one call, with all that it started on a GPU."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    network(x)
    wait()
    return time.perf_counter() - start


@torch.inference_mode()
def compare(networks: dict[str, Network], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds a batch of each contender, by rounds; two batches warm each up. What has no room on the GPU is left out."""
    seconds: dict[str, list[float]] = {}
    for name, network in networks.items():
        try:
            network(x)
            network(x)
            seconds[name] = []
        except torch.OutOfMemoryError:
            print(f"{name}: out of memory", file=sys.stderr)
    for turn in range(rounds):
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
        for name in seconds:
            seconds[name].append(seconds_of(networks[name], x))
    return seconds


def table(seconds: dict[str, list[float]], batch_size: int) -> str:
    """Median times in Markdown, with ratios to the first contender."""
    lines = ["| network | ms | images a second | ratio |", "|---|---|---|---|"]
    first = next(iter(seconds.values()), [])
    for name, own in seconds.items():
        ratio = median(a / b for a, b in zip(own, first, strict=True))
        lines.append(f"| {name} | {1000 * median(own):.1f} | {batch_size / median(own):.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(DEFAULT), default="cpu")
    parser.add_argument("--size", type=parse_size, nargs="+", help="height and width in pixels; 512x1024, on a GPU 1024x2048 too")
    parser.add_argument("--batch-size", type=int, nargs="+", help="images at a time; 1, on a GPU 8 too")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", help="some of the contenders, comma-separated; the first is compared with")
    options = parser.parse_args()
    gpu = options.device == "cuda"
    if gpu and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and this PyTorch finds none; leave it out to measure on the CPU")
    names = options.only.split(",") if options.only else DEFAULT[options.device]
    warnings.filterwarnings("ignore", module="mmseg|mmengine")
    with tempfile.TemporaryDirectory() as folder:
        networks = {}
        for name in names:
            print(f"building {name}", file=sys.stderr)
            try:
                networks[name] = build(name, options.device, Path(folder))
            except ValueError as error:
                parser.error(str(error))
        for height, width in options.size or ([(512, 1024), (1024, 2048)] if gpu else [(512, 1024)]):
            for batch_size in options.batch_size or ([1, 8] if gpu else [1]):
                x = torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(0)).to(options.device)
                print(f"{height}x{width}, batch size {batch_size}\n")
                print(table(compare(networks, x, options.rounds), batch_size), end="\n\n", flush=True)
    print({**machine(), "gpu": torch.cuda.get_device_name()} if gpu else machine())


if __name__ == "__main__":
    main()
