"""Any supported timm backbone as an encoder: a list of features, the last ones at a bounded stride."""

import difflib
from pathlib import Path
from typing import Any

import timm
from timm.layers import Conv2dSame
from timm.models import is_model_in_modules
from torch import Tensor, nn

from .atrous import Dilation, dilate

FAMILIES = ("resnet", "efficientnet")
"""timm modules whose models this release can evaluate densely."""


class Encoder(nn.Module):
    """Features of a timm backbone, the last at `output_stride`.

    `model` is timm's own feature extractor: its state-dict keys are timm's.

    Args:
        name: A timm model of the ResNet or EfficientNet family; smp's prefix "tu-" is accepted.
        weights: None or False for none (no network is touched), True or "imagenet" for timm's default tag, a timm tag, or the
            path of a .safetensors file with timm's keys.
        in_channels: Channels of the input; timm adapts the first convolution.
        depth: Stages to use, 3 to 5. Stages beyond are not built.
        output_stride: 8, 16 or 32 pixels: the largest stride of a feature.
        dilation: How later strides become dilation, see `pspnet_zoo.models.atrous`.

    Attributes:
        out_channels: Channels of each feature, the input first.
        output_stride: Stride of the last feature, in pixels.
        mean, std: What timm's weights of this model were trained with, a number a channel, for pixels of 0 to 1.

    Raises:
        ValueError: If an argument is outside its range, or the model cannot be evaluated at this stride.
    """

    def __init__(
        self,
        name: str,
        weights: str | bool | None = None,
        *,
        in_channels: int = 3,
        depth: int = 5,
        output_stride: int = 8,
        dilation: Dilation = "atrous",
    ) -> None:
        super().__init__()
        if depth not in (3, 4, 5):
            raise ValueError(f"encoder_depth is {depth}; it is the number of stages to use: 3, 4 or 5")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"encoder_output_stride is {output_stride}; it can be 8, 16 or 32")
        if dilation not in ("atrous", "uniform"):
            raise ValueError(f"dilation is {dilation!r}; it can be 'atrous' or 'uniform'")
        name = timm_name(name)
        self.model: Any = _features(name, weights, in_channels, depth)
        self._pads_as_same = any(isinstance(m, Conv2dSame) for m in self.model.modules())
        dilate(self.model, in_channels=in_channels, output_stride=output_stride, policy=dilation)
        self.out_channels = [in_channels, *self.model.feature_info.channels()]
        self.output_stride = min(output_stride, 2**depth)
        config = self.model.pretrained_cfg
        self.mean, self.std = (tuple(config[key][i % 3] for i in range(in_channels)) for key in ("mean", "std"))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) to [x, one (N, C, H/s, W/s) for each stage], s at most `output_stride`."""
        return [x, *self.model(x)]

    def offset(self, index: int, size: tuple[int, int]) -> tuple[int, int]:
        """The pixel that the first cell of a feature is centred on, as (row, column).

        It is (0, 0) with symmetric padding. 'Same' padding at stride 2 pads an even size on the far side only; over all strides
        this centres the cells as if the last one of the undilated network lay on the last pixel.

        Args:
            index: Of the feature, from the end: -1 for the last.
            size: Height and width of the input, in pixels.
        """
        if not self._pads_as_same:
            return 0, 0
        stride = self.model.feature_info.reduction()[index]  # without dilation
        return (size[0] - 1) % stride, (size[1] - 1) % stride


def timm_name(name: str) -> str:
    """The timm name without smp's "tu-", checked against timm's list.

    Raises:
        ValueError: If timm has no such model (with the closest names), or its family is not supported yet.
    """
    bare = name.removeprefix("tu-")
    if not timm.is_model(bare):
        close = difflib.get_close_matches(bare, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"timm {timm.__version__} has no model '{bare}'.{hint} See timm.list_models().")
    if not is_model_in_modules(bare, FAMILIES):
        raise ValueError(
            f"'{bare}' is not supported yet: strides can be turned into dilation only in models of timm's "
            f"{' and '.join(FAMILIES)} modules"
        )
    return bare


def _features(name: str, weights: str | bool | None, in_channels: int, depth: int) -> nn.Module:
    """timm's feature extractor of the first `depth` stages, without layers that no feature depends on."""
    file = None
    if isinstance(weights, str) and weights.endswith(".safetensors"):
        file = weights
        if not Path(file).is_file():
            raise FileNotFoundError(f"No encoder weights at '{file}'")
    elif isinstance(weights, str) and weights != "imagenet":
        tags = [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{name}.*")]
        if weights not in tags:
            raise ValueError(f"timm {timm.__version__} has no weights '{weights}' of '{name}'. Tags: {', '.join(tags) or 'none'}")
        name = f"{name}.{weights}"
    net: Any = timm.create_model(
        name,
        pretrained=bool(weights),
        pretrained_cfg_overlay={"file": file} if file else None,
        features_only=True,
        in_chans=in_channels,
        out_indices=tuple(range(depth)),
    )
    if isinstance(getattr(net, "blocks", None), nn.Sequential):  # EfficientNets keep the stages after the last feature
        net.blocks = net.blocks[: net.feature_info.get_dicts()[-1]["stage"]]
    for path, module in net.named_modules():
        # rounds down where the shortcut beside it rounds up: odd sizes would fail
        if path.endswith(".aa") and isinstance(module, nn.AvgPool2d):
            module.ceil_mode, module.count_include_pad = True, False
    return net
