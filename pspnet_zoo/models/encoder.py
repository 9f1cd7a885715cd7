"""Any supported timm backbone as an encoder: a list of features, the last ones at a bounded stride."""

import difflib
from pathlib import Path
from typing import Any, get_args

import timm
from timm.layers import Conv2dSame
from timm.models import is_model_in_modules
from torch import Tensor, nn

from .atrous import Dilation, ShortcutPool, dilate, probe

FAMILIES = ("resnet", "resnest", "efficientnet")
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
        dilation: How later strides become dilation, see `pspnet_zoo.models.atrous.Dilation`. "strided" needs output_stride=32.
        shortcut_pool: What becomes of average pools there, see `pspnet_zoo.models.atrous.ShortcutPool`.
        stem_width: Of a ResNet: gives it a deep stem, three 3x3 convolutions of this width, this width and twice that, in place
            of its own. timm has no weights for it.

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
        shortcut_pool: ShortcutPool = "dilated",
        stem_width: int | None = None,
    ) -> None:
        super().__init__()
        if depth not in (3, 4, 5):
            raise ValueError(f"encoder_depth is {depth}; it is the number of stages to use: 3, 4 or 5")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"encoder_output_stride is {output_stride}; it can be 8, 16 or 32")
        for argument, value, choices in (
            ("dilation", dilation, get_args(Dilation)),
            ("shortcut_pool", shortcut_pool, get_args(ShortcutPool)),
        ):
            if value not in choices:
                raise ValueError(f"{argument} is {value!r}; it can be {', '.join(map(repr, choices))}")
        if dilation == "strided" and output_stride != 32:
            raise ValueError(f"dilation 'strided' keeps every stride, so the output stride is 32, not {output_stride}")
        name = timm_name(name)
        if stem_width is not None and (weights or not is_model_in_modules(name, ("resnet",))):
            raise ValueError(f"stem_width gives a ResNet an untrained stem; it goes neither with '{name}' nor with encoder weights")
        self.model: Any = _features(name, weights, in_channels, depth, stem_width)
        self._pads_as_same = any(isinstance(m, Conv2dSame) for m in self.model.modules())
        dilate(
            self.model,
            in_channels=in_channels,
            output_stride=8 if dilation == "strided" else output_stride,
            policy=dilation,
            shortcut_pool=shortcut_pool,
        )
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

    def forward_with(self, x: Tensor, name: str) -> tuple[list[Tensor], Tensor]:
        """`forward`, and the output of the module `name` of `model` on the way."""
        outputs: list[Tensor] = []
        handle = self.model.get_submodule(name).register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            return self(x), outputs[0]
        finally:
            handle.remove()

    def channels_of(self, name: str) -> int:
        """Channels of the output of the module `name` of `model`.

        Raises:
            ValueError: If there is no such module.
        """
        channels: list[int] = []
        try:
            module = self.model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"The encoder has no module '{name}'. See dict(net.encoder.model.named_modules())") from None
        handle = module.register_forward_hook(lambda module, inputs, output: channels.append(output.shape[1]))
        try:
            probe(self.model, self.out_channels[0])
        finally:
            handle.remove()
        return channels[0]


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


def _features(name: str, weights: str | bool | None, in_channels: int, depth: int, stem_width: int | None) -> nn.Module:
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
        **({} if stem_width is None else {"stem_type": "deep", "stem_width": stem_width}),
    )
    if isinstance(getattr(net, "blocks", None), nn.Sequential):  # EfficientNets keep the stages after the last feature
        net.blocks = net.blocks[: net.feature_info.get_dicts()[-1]["stage"]]
    for path, module in net.named_modules():
        # rounds down where the shortcut beside it rounds up: odd sizes would fail
        if path.endswith(".aa") and isinstance(module, nn.AvgPool2d):
            module.ceil_mode, module.count_include_pad = True, False
    return net
