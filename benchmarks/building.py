"""Cost of dilation when a network is built: a PSPNet against timm's features and the same head, in turns.

    python -m benchmarks.building

Processor time, so that other work on the machine does not count.
"""

import time
from statistics import median

import timm

from pspnet_zoo import PSPNet
from pspnet_zoo.models.heads import SegmentationHead, initialize
from pspnet_zoo.models.pspnet import PyramidDecoder
from pspnet_zoo.models.pyramid import BatchNorm2d

ENCODER, ROUNDS = "resnet50", 12


def main() -> None:
    ours, parts = [], []
    for _ in range(ROUNDS + 1):  # the first round is for imports and caches
        ours.append(seconds(lambda: PSPNet(ENCODER, None)))
        parts.append(seconds(timm_and_head))
    for name, times in ((f"PSPNet('{ENCODER}', None)", ours[1:]), ("timm's features and head", parts[1:])):
        print(f"{name:28}{median(times):.3f} s (least {min(times):.3f})")
    print(f"{'ratio':28}{median(ours[1:]) / median(parts[1:]):.3f}")


def timm_and_head() -> None:
    channels = timm.create_model(ENCODER, features_only=True).feature_info.channels()[-1]
    decoder = PyramidDecoder(channels, 512, bin_channels=None, norm=BatchNorm2d, dropout=0.1, align_corners=True)
    head = SegmentationHead(512, 1, activation=None, scale=8, align_corners=True)
    initialize(decoder), initialize(head)


def seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
