"""A training step of `pspnet_lite0` on the CPU, with torch's own depthwise convolutions and with ours, in turns.

    python -m benchmarks.depthwise

8 images of 240x320 at stride 8 in channels_last, forward and backward, in float32 and under bfloat16 autocast.
"""

import time
from contextlib import nullcontext
from statistics import median

import torch

from pspnet_zoo import create
from pspnet_zoo.runtimes.cpu.depthwise import FastDepthwise
from pspnet_zoo.training.loss import segmentation_loss

ROUNDS = 5


def main() -> None:
    net = create("pspnet_lite0", classes=11, aux_head=True).to(memory_format=torch.channels_last)
    x = torch.randn(8, 3, 240, 320).contiguous(memory_format=torch.channels_last)
    masks = torch.randint(0, 11, (8, 240, 320))
    for precision, autocast in (("float32", nullcontext()), ("bfloat16", torch.autocast("cpu", torch.bfloat16))):
        own, fast = [], []
        for _ in range(ROUNDS + 1):  # the first round is for caches
            for mode, times in ((nullcontext(), own), (FastDepthwise(), fast)):
                start = time.perf_counter()
                with mode, autocast:
                    outputs = net(x, return_aux=True)
                segmentation_loss(tuple(output.float() for output in outputs), masks).backward()
                times.append(time.perf_counter() - start)
        torchs, ours = median(own[1:]), median(fast[1:])
        print(f"{precision:9}torch {torchs:.2f} s  ours {ours:.2f} s  ratio {ours / torchs:.2f}")


if __name__ == "__main__":
    main()
