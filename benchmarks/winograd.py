"""Gain of Winograd's algorithm: 3x3 convolutions of a PSPNet at 512x1024 pixels, against torch's, in turns.

    python -m benchmarks.winograd [--rounds 5]

`pspnet_zoo.runtimes.cpu.folding.winograd_pays` is the rule that follows.
"""

import argparse
import time
from statistics import median

import torch
from torch.nn import functional as F

from pspnet_zoo.runtimes.cpu.folding import winograd_pays
from pspnet_zoo.runtimes.cpu.winograd import Workspace, winograd_conv2d

LAYERS = [  # input and output channels, height and width of the feature map, dilation
    (2048, 512, 64, 128, 1),
    (512, 512, 64, 128, 4),
    (256, 256, 64, 128, 2),
    (128, 128, 64, 128, 1),
    (64, 64, 128, 256, 1),
]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{'channels':>12}{'map':>10}{'dilation':>10}{'torch ms':>10}{'ratio':>8}{'error':>10}  rule")
    for inputs, outputs, height, width, dilation in LAYERS:
        x = torch.randn(1, inputs, height, width).relu_().contiguous(memory_format=torch.channels_last)
        weight = torch.randn(outputs, inputs, 3, 3).contiguous(memory_format=torch.channels_last)
        workspace = Workspace()
        wanted = F.conv2d(x, weight, padding=dilation, dilation=dilation)
        error = (winograd_conv2d(x, weight, dilation=dilation, workspace=workspace) - wanted).abs().max() / wanted.abs().max()
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            F.conv2d(x, weight, padding=dilation, dilation=dilation)
            between = time.perf_counter()
            winograd_conv2d(x, weight, dilation=dilation, workspace=workspace)
            times.append((between - start, time.perf_counter() - between))
        ratio = median(b / a for a, b in times)
        rule = "taken" if winograd_pays(inputs, outputs, height, width, dilation) else "left"
        torch_ms = 1000 * median(a for a, _ in times)
        print(f"{inputs:>6}->{outputs:<4}{height:>6}x{width:<3}{dilation:>10}{torch_ms:>10.0f}{ratio:>8.2f}{error:>10.1e}  {rule}")


if __name__ == "__main__":
    main()
