"""Any timm backbone as an encoder: a list of features, the last ones at a bounded stride.

`build_encoder` chooses: a `DilatedEncoder` evaluates a convolutional network densely, a `ResizedEncoder` resizes the features of
any other. Both have the interface of `Encoder`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import timm
import torch
from timm.layers import Format
from timm.models import is_model_in_modules
from torch import Tensor, nn

from ..zoo.policies import Dilation, ShortcutPool
from .backbone import Backbone, InputPadding, Mechanism, Weights, find_backbone, mechanism_of, units
from .dilated import dilate, run_without_data
from .dilated_layers import pads_as_same
from .resized import measure


def build_encoder(
    name: str,
    weights: Weights = None,
    *,
    in_channels: int = 3,
    depth: int = 5,
    output_stride: int = 8,
    drop_path_rate: float = 0.0,
    dilation: Dilation = "atrous",
    shortcut_pool: ShortcutPool = "dilated",
    stem_width: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    read: int = 2,
    fuse: int | Sequence[int] | None = None,
) -> "Encoder":
    """The encoder of a timm backbone, with its strides bounded in the way that suits it.

    Args:
        name: A timm model, with or without a tag; smp's prefix "tu-" is accepted.
        weights: None or False for none (no network is touched), True or "imagenet" for timm's default tag or that of the name, a
            timm tag, or the path of a .safetensors file with timm's keys.
        in_channels: Channels of the input; timm adapts the first convolution.
        depth: Stages to use, 3 to 5: all, all but the last, all but the last two. Stages beyond are not built.
        output_stride: 8, 16 or 32 pixels: the largest stride of a feature.
        drop_path_rate: Rate of stochastic depth in training, 0 to 1, for models that have it.
        dilation: Dilated encoders only: how later strides become dilation, see `pspnet_zoo.zoo.policies.Dilation`. "strided" needs
            output_stride=32.
        shortcut_pool: Dilated encoders only: what becomes of average pools, see `pspnet_zoo.zoo.policies.ShortcutPool`.
        stem_width: ResNets only: a deep stem, three 3x3 convolutions of this width, this width and twice that, in place of the
            model's own. timm has no weights for it.
        image_size: Resized encoders only: side, or height and width, in pixels of the largest image, for models that are built for
            one size; None for that of their pretraining.
        read: How many features are read, from the last. Parameters of a resized encoder that only others depend on become buffers:
            they would get no gradient, which DistributedDataParallel refuses.
        fuse: Plain vision transformers only: the last feature is that of so many last blocks beside each other, or of the blocks
            with these indices, each after the model's last norm. None for the last block as it is.

    Raises:
        ValueError: If an argument is outside its range or not for this encoder, or the model cannot be an encoder.
        WeightsError: If weights are neither in the Hub's cache nor to be had.
    """
    _check_arguments(depth, output_stride, drop_path_rate, dilation, shortcut_pool)
    backbone = find_backbone(name, weights, in_channels=in_channels, drop_path_rate=drop_path_rate)
    name = backbone.name
    if stem_width is not None and (weights or not is_model_in_modules(name, ("resnet",))):
        raise ValueError(f"stem_width gives a ResNet an untrained stem; it goes neither with '{name}' nor with encoder weights")
    if mechanism_of(name) == "dilated":
        if image_size is not None:
            raise ValueError(f"'{name}' takes images of any size; leave out encoder_image_size={image_size}")
        if fuse is not None:
            raise ValueError(f"'{name}' is convolutional, not a plain vision transformer; leave out encoder_fuse={fuse}")
        return DilatedEncoder(backbone, depth, output_stride, dilation, shortcut_pool, stem_width)
    if dilation != "atrous" or shortcut_pool != "dilated":
        raise ValueError(f"'{name}' is resized, not dilated: dilation={dilation!r}, shortcut_pool={shortcut_pool!r} are not for it")
    return ResizedEncoder(backbone, depth, output_stride, image_size, read, fuse)


class Encoder(nn.Module):
    """Features of a timm backbone, the last at `output_stride`; what dilated and resized encoders have in common.

    `model` is timm's own feature extractor: its state-dict keys are timm's.

    Args:
        model: timm's feature extractor.
        padding: Sizes that it takes.
        in_channels: Channels of the input.
        native_strides: Strides of the features in timm, in pixels.
        strides: Strides of the features here, in pixels.
        channels: Channels of the features.

    Attributes:
        mechanism: How strides are bounded, see `Mechanism`.
        native_strides: Stride of each feature as timm has it, in pixels, without the input.
        strides: Stride of each feature, in pixels, the input first.
        out_channels: Channels of each feature, the input first.
        output_stride: Stride of the last feature, in pixels.
        image_size: Height and width of the largest image; None for any.
        mean, std: Normalisation that timm's weights were trained with, a number a channel, for pixels of 0 to 1.
    """

    mechanism: ClassVar[Mechanism]

    def __init__(
        self,
        model: Any,
        padding: InputPadding,
        in_channels: int,
        native_strides: tuple[int, ...],
        strides: tuple[int, ...],
        channels: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.model = model
        self.padding = padding
        self.native_strides = native_strides
        self.strides = [1, *strides]
        self.out_channels = [in_channels, *channels]
        self.output_stride = self.strides[-1]
        self.image_size = padding.size
        config = model.pretrained_cfg
        self.mean, self.std = (tuple(config[key][i % 3] for i in range(in_channels)) for key in ("mean", "std"))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) to [x, one (N, C, H/s, W/s) for each stage], s at most `output_stride`, sizes rounded up.

        Raises:
            ValueError: If x is larger than `image_size`.
        """
        padded = self.padding(x)
        features = self.features(padded)
        if padded is not x:
            height, width = x.shape[-2:]
            sides = ((units(height, stride), units(width, stride)) for stride in self.strides[1:])
            features = [feature[..., :h, :w] for feature, (h, w) in zip(features, sides, strict=True)]
        return [x, *features]

    def features(self, padded: Tensor) -> list[Tensor]:
        """The features of an image of a size that the model takes."""
        raise NotImplementedError

    def offset(self, index: int, size: tuple[int, int]) -> tuple[int, int]:
        """The pixel that the first position of a feature map is centred on, as (row, column).

        Args:
            index: Index of the feature, from the end: -1 for the last.
            size: Height and width of the input, in pixels.
        """
        raise NotImplementedError

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
            ValueError: If there is no such module, or its output is not (N, C, H, W).
        """
        shapes: list[tuple[int, ...]] = []
        try:
            module = self.model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"The encoder has no module '{name}'. See dict(net.encoder.model.named_modules())") from None
        handle = module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(getattr(output, "shape", ()))))
        try:
            run_without_data(self.model, self.out_channels[0])
        finally:
            handle.remove()
        shape = shapes[0] if shapes else ()
        # of a square image: (N, C, S, S), or (N, S, S, C); the model's own layout decides where all sides are equal
        is_nhwc = getattr(self.model, "output_fmt", Format.NCHW) == Format.NHWC
        if len(shape) != 4 or shape[2] != shape[3] or (is_nhwc and shape[1] == shape[2]):
            raise ValueError(
                f"aux_from is '{name}', whose output is {shape or 'no tensor'}, not (N, C, H, W) as the auxiliary head reads it. "
                "Choose another module of dict(net.encoder.model.named_modules()), or leave it out"
            )
        return shape[1]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the features again in the backward pass instead of keeping them: less memory, more time.

        Raises:
            ValueError: If timm cannot do it for this model.
        """
        # timm's wrapper of a whole model, FeatureGetterNet, does not pass it on
        holders = (self.model, getattr(self.model, "model", None))
        switch = next((switch for holder in holders if (switch := getattr(holder, "set_grad_checkpointing", None))), None)
        if switch is None:
            raise ValueError(f"timm {timm.__version__} has no gradient checkpointing for a {type(self.model).__name__}")
        switch(enable)


class DilatedEncoder(Encoder):
    """A convolutional network whose later strides become dilation, see `pspnet_zoo.models.dilated`."""

    mechanism = "dilated"

    def __init__(
        self,
        backbone: Backbone,
        depth: int,
        output_stride: int,
        dilation: Dilation,
        shortcut_pool: ShortcutPool,
        stem_width: int | None,
    ) -> None:
        options: dict[str, Any] = {} if stem_width is None else {"stem_type": "deep", "stem_width": stem_width}
        if depth < 5:
            options["out_indices"] = _stages(backbone.name, depth)
        model = backbone.build(options)
        has_same_padding = any(pads_as_same(m) for m in model.modules())
        multiple, minimum = dilate(
            model,
            in_channels=backbone.in_channels,
            output_stride=8 if dilation == "strided" else output_stride,
            policy=dilation,
            shortcut_pool=shortcut_pool,
        )
        native = tuple(model.feature_info.reduction())
        super().__init__(
            model,
            InputPadding(multiple, minimum),
            backbone.in_channels,
            native,
            tuple(min(output_stride, s) for s in native),
            tuple(model.feature_info.channels()),
        )
        self._is_nhwc = getattr(model, "output_fmt", Format.NCHW) == Format.NHWC
        self._has_same_padding = has_same_padding

    def features(self, padded: Tensor) -> list[Tensor]:
        """The features of an image of a size that the model takes."""
        features = self.model(padded)
        return [feature.permute(0, 3, 1, 2) for feature in features] if self._is_nhwc else features

    def offset(self, index: int, size: tuple[int, int]) -> tuple[int, int]:
        """The pixel that the first position of a feature map is centred on, as (row, column).

        It is (0, 0) with symmetric padding. 'Same' padding at stride 2 pads an even size on the far side only; over all strides
        this centres the positions as if the last one of the undilated network lay on the last pixel. That a dilated network of
        patches, such as a ConvNeXt, centres its positions half a native stride later is not taken into account.
        """
        if not self._has_same_padding:
            return 0, 0
        stride = self.native_strides[index]
        return (size[0] - 1) % stride, (size[1] - 1) % stride


class ResizedEncoder(Encoder):
    """A network whose features are resized, see `pspnet_zoo.models.resized`."""

    mechanism = "resized"

    def __init__(
        self,
        backbone: Backbone,
        depth: int,
        output_stride: int,
        image_size: int | tuple[int, int] | None,
        read: int,
        fuse: int | Sequence[int] | None = None,
    ) -> None:
        found = measure(
            backbone.tagged_name,
            in_channels=backbone.in_channels,
            depth=depth,
            output_stride=output_stride,
            image_size=image_size,
            read=read,
            fuse=fuse,
        )
        model = backbone.build(found.options)
        for path in found.unread:
            _make_buffer(model, path)
        if found.resizing.layout == Format.NLC:
            model.output_fmt = Format.NLC
        resizing = found.resizing
        super().__init__(model, found.padding, backbone.in_channels, resizing.native_strides, resizing.strides, found.channels)
        self.resizing = resizing

    def features(self, padded: Tensor) -> list[Tensor]:
        """The features of an image of a size that the model takes."""
        return self.resizing(self.model(padded), padded)

    def offset(self, index: int, size: tuple[int, int]) -> tuple[int, int]:
        """The pixel that the first position of a feature map is centred on; positions of resized features lie side by side."""
        return (self.strides[index] - 1) // 2, (self.strides[index] - 1) // 2


def _make_buffer(model: nn.Module, path: str) -> None:
    """Turn a parameter into a buffer of the same name."""
    parent, _, leaf = path.rpartition(".")
    module = model.get_submodule(parent)
    value = getattr(module, leaf).detach()
    delattr(module, leaf)
    module.register_buffer(leaf, value)


def _check_arguments(
    depth: int, output_stride: int, drop_path_rate: float, dilation: Dilation, shortcut_pool: ShortcutPool
) -> None:
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
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate is {drop_path_rate}; it must be 0 or more and less than 1")
    if dilation == "strided" and output_stride != 32:
        raise ValueError(f"dilation 'strided' keeps every stride, so the output stride is 32, not {output_stride}")


def _stages(name: str, depth: int) -> tuple[int, ...]:
    """timm's indices of the stages that are left at a depth below 5."""
    with torch.device("meta"):
        net: Any = timm.create_model(name, features_only=True)
    indices = tuple(net.feature_info.out_indices)
    return indices[: len(indices) + depth - 5]
