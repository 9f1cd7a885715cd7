"""Encoders whose features are resized to the wanted stride, such as transformers.

Attention, position embeddings and windows tie a transformer to the density of the feature maps that it was trained on. Its strides
cannot become dilation: it runs as timm has it, and its features are resized. The sizes that it takes and gives are measured on a
copy without data, because timm's `feature_info` and `fixed_input_size` are not true of every model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import Format
from torch import Tensor
from torch.nn import functional as F

from .backbone import InputPadding, build_backbone, units


@dataclass(frozen=True)
class Measured:
    """The measurements by which a model is built and resized."""

    padding: InputPadding
    resizing: "FeatureResizing"
    channels: tuple[int, ...]
    """Channels of each feature."""
    unread: tuple[str, ...]
    """Parameters of the model that no feature that is read depends on."""
    options: dict[str, Any]
    """Arguments of `timm.create_model`: which features, and what frees the model from the size of its pretraining."""


@dataclass(frozen=True)
class FeatureResizing:
    """From the features that a model gives to (N, C, H/s, W/s) feature maps at the wanted strides s."""

    native_strides: tuple[int, ...]
    """Stride of each feature as timm has it, in pixels, rounded."""
    strides: tuple[int, ...]
    """Stride of each feature after resizing, in pixels."""
    layout: Format
    """Layout of the model's features; NLC where timm cannot tell the sides without data."""

    def __call__(self, features: list[Tensor], padded: Tensor) -> list[Tensor]:
        """Resize the features of a padded image."""
        resized = []
        for feature, native, stride in zip(features, self.native_strides, self.strides, strict=True):
            feature = self._as_nchw(feature, native, padded)
            if native != stride:
                size = [units(side, stride) for side in padded.shape[-2:]]
                feature = F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
            resized.append(feature)
        return resized

    def _as_nchw(self, feature: Tensor, stride: int, padded: Tensor) -> Tensor:
        if self.layout == Format.NHWC:
            return feature.permute(0, 3, 1, 2)
        if self.layout == Format.NLC:
            return feature.transpose(1, 2).unflatten(2, (padded.shape[-2] // stride, padded.shape[-1] // stride))
        return feature


def measure(
    name: str,
    *,
    in_channels: int,
    depth: int,
    output_stride: int,
    image_size: int | tuple[int, int] | None,
    read: int,
    fuse: int | Sequence[int] | None = None,
) -> Measured:
    """Measure the sizes that a model takes and gives, on the meta device.

    Args:
        name: Of a timm model.
        in_channels: Channels of its input.
        depth: Stages to use; 5 for all, 4 and 3 for all but the last one or two.
        output_stride: The largest stride of a feature after resizing, in pixels.
        image_size: Sides of the images to build the model for, if it takes one size only; None for those of its pretraining.
        read: Features that are read, from the last.
        fuse: Blocks of a plain vision transformer that are fused, see `FusedBlocks`; None for none.

    Raises:
        ValueError: If the model has too few stages, cannot be built for `image_size`, or gives no maps, or `depth` is not 5 beside
            `fuse`.
    """
    config: Any = timm.get_pretrained_cfg(name)
    if config is None:
        raise ValueError(f"timm has given '{name}' another name; build it once with timm.create_model to be told which")
    if image_size is None:
        size: tuple[int, int] = config.input_size[-2:]
        choices: list[dict[str, Any]] = [{"dynamic_img_size": True}, {}] if config.fixed_input_size else [{}]
    elif config.fixed_input_size:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        choices = [{"img_size": size}]
    else:
        raise ValueError(f"'{name}' takes images of any size; leave out encoder_image_size={image_size}")
    if fuse is not None and depth != 5:
        raise ValueError(f"encoder_depth is {depth}, but encoder_fuse={fuse} chooses the blocks that are read; use 5")
    if fuse is not None:
        options, net = _build(name, [{**options, "fuse": fuse} for options in choices], in_channels)
    else:
        options, net = _build(name, choices, in_channels)
        indices = _indices(name, net.feature_info, depth)
        if indices != tuple(net.feature_info.out_indices):
            options, net = _build(name, [{**options, "out_indices": indices}], in_channels)
    layout = getattr(net, "output_fmt", Format.NCHW)
    shapes = _shapes(net, layout, in_channels, size)
    if shapes is None:  # 384 pixels of pretraining are no multiple of patches of 14
        patch = net.model.feature_info[0]["reduction"] if fuse else max(net.feature_info.reduction())
        size = (-(-size[0] // patch) * patch, -(-size[1] // patch) * patch)
        shapes = _shapes(net, layout, in_channels, size)
    if shapes is None and layout == Format.NCHW and hasattr(net, "output_fmt"):
        net.output_fmt = layout = Format.NLC
        shapes = _shapes(net, layout, in_channels, size)
    if shapes is None:
        raise ValueError(f"'{name}' gives no feature maps of a {size[0]}x{size[1]} image, so it cannot be an encoder")
    native = tuple(round(size[0] / rows) for _, rows, _ in shapes)
    sides = _any_size(net, layout, in_channels, native, inexact=not config.fixed_input_size)
    if sides is not None:
        native = sides[2]
    # the next power of two, for those with odd patches
    strides = tuple(min(output_stride, 2 ** math.ceil(math.log2(s))) for s in native)
    return Measured(
        padding=InputPadding(sides[0], sides[1]) if sides else InputPadding(size=size),
        resizing=FeatureResizing(native, strides, layout),
        channels=tuple(channels for channels, _, _ in shapes),
        unread=_unread(net, in_channels, size, read),
        options=options,
    )


def _build(name: str, choices: list[dict[str, Any]], in_channels: int) -> tuple[dict[str, Any], Any]:
    """The first choice of arguments that timm takes, and the model on the meta device."""
    *others, last = choices
    for options in others:
        try:
            with torch.device("meta"):
                return options, build_backbone(name, in_channels, options).eval()
        except Exception:  # timm refuses arguments by whatever comes first
            continue
    try:
        with torch.device("meta"):
            return last, build_backbone(name, in_channels, last).eval()
    except Exception as error:
        if "encoder_fuse" in str(error):
            raise
        raise ValueError(f"timm {timm.__version__} does not build '{name}' with {last}: {error!r}") from error


def _indices(name: str, info: Any, depth: int) -> tuple[int, ...]:
    """Which of timm's features to use: the stages, or the last block and one before it where all blocks have the same stride."""
    last = len(info.info)
    if len(set(info.reduction())) == 1 and depth == 5:
        return last * 2 // 3 - 1, last - 1
    indices = tuple(info.out_indices)[: len(info.out_indices) + depth - 5]
    if len(indices) < 2 or len(set(info.reduction())) == 1:
        raise ValueError(f"encoder_depth is {depth}, but '{name}' has too few stages of different strides for it; use 5")
    return indices


def _shapes(net: Any, layout: Format, in_channels: int, size: tuple[int, int]) -> list[tuple[int, int, int]] | None:
    """(channels, rows, columns) of every feature, None if the model does not take this size."""
    image = torch.empty(1, in_channels, *size, device="meta")
    try:
        with torch.no_grad():
            features = net(image)
    except Exception:  # whatever comes first in timm: assertions, shapes that do not match, missing data
        return None
    if layout == Format.NLC:
        strides = [round(math.sqrt(size[0] * size[1] / f.shape[1])) for f in features]
        shapes = [(f.shape[2], size[0] // s, size[1] // s) for f, s in zip(features, strides, strict=True)]
        return shapes if all(h * w == f.shape[1] for f, (_, h, w) in zip(features, shapes, strict=True)) else None
    if layout == Format.NHWC:
        return [(f.shape[3], f.shape[1], f.shape[2]) for f in features]
    return [(f.shape[1], f.shape[2], f.shape[3]) for f in features]


def _unread(net: Any, in_channels: int, size: tuple[int, int], read: int) -> tuple[str, ...]:
    """Parameters that the last features do not depend on."""
    features = net(torch.empty(1, in_channels, *size, device="meta"))
    torch.stack([f.sum() for f in features[-read:]]).sum().backward()
    return tuple(name for name, parameter in net.named_parameters() if parameter.grad is None)


def _any_size(
    net: Any, layout: Format, in_channels: int, strides: tuple[int, ...], *, inexact: bool
) -> tuple[int, int, tuple[int, ...]] | None:
    """The multiple and minimum of an input's sides at which features are in proportion to it, and their strides there.

    None if only one size will do. With `inexact`, features may lack a margin, if there are none without.
    """
    coarsest = max(strides)
    rounded = 2 ** math.ceil(math.log2(coarsest))  # 224 pixels at stride 64 are 4 positions: it looks like 56
    fallback, misfits = None, 0
    for multiple in sorted({factor * stride for factor in range(1, 9) for stride in (coarsest, rounded)}):
        size = 3 * multiple, 5 * multiple
        shapes = _shapes(net, layout, in_channels, size)
        if shapes is None:
            continue
        found = tuple(round(size[0] / rows) for _, rows, _ in shapes)
        if all((h * s, w * s) == size for (_, h, w), s in zip(shapes, found, strict=True)):
            return multiple, multiple, found
        misfits += 1
        if inexact and fallback is None and all(h < w for _, h, w in shapes):
            fallback = rounded, -(-size[0] // rounded) * rounded, strides
        if misfits == 2:  # it takes any size, and its maps are what they are
            break
    return fallback
