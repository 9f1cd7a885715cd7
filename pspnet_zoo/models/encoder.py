"""Any timm backbone as an encoder: a list of features, the last ones at a bounded stride."""

import difflib
import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from timm.layers import Format
from timm.models import is_model_in_modules
from torch import Tensor, nn

from ..storage.errors import WeightsError
from ..storage.hub import is_cached_or_reachable
from ..zoo.policies import Dilation, ShortcutPool
from .dense import pads_as_same
from .dilated import dilate, probe
from .resized import Fit, build, measure

Mechanism = Literal["dilated", "resized"]
"""How later strides are bounded: "dilated" evaluates the network densely, see `pspnet_zoo.models.dilated`; "resized" takes the maps
that timm gives and resizes them, see `pspnet_zoo.models.resized`."""

# fmt: off
CONVOLUTIONAL = (
    "byobnet", "convnext", "cspnet", "cspnext", "densenet", "dla", "dpn", "efficientnet", "fasternet", "ghostnet", "hardcorenas",
    "hgnet", "inception_next", "inception_resnet_v2", "inception_v4", "lcnetv2", "mambaout", "mobilenetv3", "nfnet", "rdnet",
    "regnet", "repghost", "repvit", "res2net", "resnest", "resnet", "resnetv2", "rexnet", "selecsls", "senet", "sknet", "starnet",
    "tresnet", "vgg", "vovnet", "xception", "xception_aligned",
)
# fmt: on
"""timm modules whose models convolve, pool and gate, and nothing else: these are dilated. Any other is resized, and so is what a
later timm brings."""

_SPATIAL_GATES = ("bat_", "mobilenetv4_hybrid", "ghostnetv2", "ghostnetv3")
"""Lines of models inside those modules with attention over the map, or gates on a halved map, which dilation would change."""


class Encoder(nn.Module):
    """Features of a timm backbone, the last at `output_stride`.

    `model` is timm's own feature extractor: its state-dict keys are timm's.

    Args:
        name: A timm model, with or without a tag; smp's prefix "tu-" is accepted.
        weights: None or False for none (no network is touched), True or "imagenet" for timm's default tag or that of the name, a
            timm tag, or the path of a .safetensors file with timm's keys.
        in_channels: Channels of the input; timm adapts the first convolution.
        depth: Stages to use, 3 to 5: all, all but the last, all but the last two. Stages beyond are not built.
        output_stride: 8, 16 or 32 pixels: the largest stride of a feature.
        dilation: How later strides become dilation, see `pspnet_zoo.zoo.policies.Dilation`. "strided" needs output_stride=32.
        shortcut_pool: What becomes of average pools there, see `pspnet_zoo.zoo.policies.ShortcutPool`.
        stem_width: Of a ResNet: gives it a deep stem, three 3x3 convolutions of this width, this width and twice that, in place
            of its own. timm has no weights for it.
        image_size: Side, or height and width, in pixels of the largest image, for models that are built for one size; None for
            that of their pretraining.
        read: How many features are read, from the last. Parameters that only others depend on become buffers: they would get no
            gradient, which DistributedDataParallel refuses.

    Attributes:
        mechanism: How strides are bounded, see `Mechanism`.
        native_strides: Of each feature as timm has it, in pixels, without the input.
        strides: Of each feature, in pixels, the input first.
        out_channels: Channels of each feature, the input first.
        output_stride: Stride of the last feature, in pixels.
        image_size: Height and width of the largest image; None for any.
        mean, std: What timm's weights of this model were trained with, a number a channel, for pixels of 0 to 1.

    Raises:
        ValueError: If an argument is outside its range, or the model cannot be an encoder.
        WeightsError: If weights are neither in the Hub's cache nor to be had.
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
        image_size: int | tuple[int, int] | None = None,
        read: int = 2,
    ) -> None:
        super().__init__()
        _check_arguments(depth, output_stride, dilation, shortcut_pool)
        name, tag = timm_name(name)
        if stem_width is not None and (weights or not is_model_in_modules(name, ("resnet",))):
            raise ValueError(f"stem_width gives a ResNet an untrained stem; it goes neither with '{name}' nor with encoder weights")
        file, tag = _source(name, tag, weights)
        source = _Source(f"{name}.{tag}" if tag else name, bool(weights), file, in_channels)
        self.mechanism: Mechanism = mechanism_of(name)
        if self.mechanism == "dilated":
            if image_size is not None:
                raise ValueError(f"'{name}' takes images of any size; leave out encoder_image_size={image_size}")
            self.model, self._fit = _dilated(name, source, depth, output_stride, dilation, shortcut_pool, stem_width)
        else:
            if dilation != "atrous" or shortcut_pool != "dilated":
                raise ValueError(
                    f"'{name}' is resized, not dilated: dilation={dilation!r}, shortcut_pool={shortcut_pool!r} are not for it"
                )
            self.model, self._fit = _resized(source, depth, output_stride, image_size, read)
        self.native_strides = self._fit.native_strides
        self.strides = [1, *self._fit.strides]
        self.out_channels = [in_channels, *self._fit.channels]
        self.output_stride = self.strides[-1]
        self.image_size = self._fit.size
        config = self.model.pretrained_cfg
        self.mean, self.std = (tuple(config[key][i % 3] for i in range(in_channels)) for key in ("mean", "std"))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) to [x, one (N, C, H/s, W/s) for each stage], s at most `output_stride`.

        Raises:
            ValueError: If x is larger than `image_size`.
        """
        padded = self._fit.pad(x)
        return [x, *self._fit.maps(self.model(padded), x, padded)]

    def offset(self, index: int, size: tuple[int, int]) -> tuple[int, int]:
        """The pixel that the first cell of a feature is centred on, as (row, column).

        It is (0, 0) with symmetric padding. 'Same' padding at stride 2 pads an even size on the far side only; over all strides
        this centres the cells as if the last one of the undilated network lay on the last pixel. Cells of a resized map are taken
        to lie side by side. That a dilated network of patches, such as a ConvNeXt, centres its cells half a native stride later
        is not taken into account.

        Args:
            index: Of the feature, from the end: -1 for the last.
            size: Height and width of the input, in pixels.
        """
        if self._fit.resized:
            return (self.strides[index] - 1) // 2, (self.strides[index] - 1) // 2
        if not self._fit.pads_as_same:
            return 0, 0
        stride = self.native_strides[index]
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


@dataclass(frozen=True)
class _Source:
    """What timm is asked for."""

    name: str
    """With a tag, if any."""
    pretrained: bool
    file: str | None
    in_channels: int

    def build(self, options: dict[str, Any]) -> Any:
        if self.pretrained and self.file is None:
            _check_available(self.name)
        return build(self.name, self.in_channels, options, self.pretrained, self.file)


def _dilated(
    name: str,
    source: _Source,
    depth: int,
    output_stride: int,
    dilation: Dilation,
    shortcut_pool: ShortcutPool,
    stem_width: int | None,
) -> tuple[Any, Fit]:
    """timm's feature extractor with its later strides as dilation, and how images fit it."""
    options: dict[str, Any] = {} if stem_width is None else {"stem_type": "deep", "stem_width": stem_width}
    if depth < 5:
        options["out_indices"] = _stages(name, depth)
    model = source.build(options)
    shifts = any(pads_as_same(m) for m in model.modules())
    multiple, minimum = dilate(
        model,
        in_channels=source.in_channels,
        output_stride=8 if dilation == "strided" else output_stride,
        policy=dilation,
        shortcut_pool=shortcut_pool,
    )
    info = model.feature_info
    fit = Fit(
        native_strides=tuple(info.reduction()),
        strides=tuple(min(output_stride, s) for s in info.reduction()),
        layout=getattr(model, "output_fmt", Format.NCHW),
        multiple=multiple,
        minimum=minimum,
        channels=tuple(info.channels()),
        pads_as_same=shifts,
    )
    return model, fit


def _resized(
    source: _Source, depth: int, output_stride: int, image_size: int | tuple[int, int] | None, read: int
) -> tuple[Any, Fit]:
    """timm's feature extractor as it is, and how its maps are resized."""
    fit = measure(
        source.name,
        in_channels=source.in_channels,
        depth=depth,
        output_stride=output_stride,
        image_size=image_size,
        read=read,
    )
    model = source.build(fit.options)
    for path in fit.unread:
        parent, _, leaf = path.rpartition(".")
        module = model.get_submodule(parent)
        module.register_buffer(leaf, module._parameters.pop(leaf).detach())
    if fit.layout == Format.NLC:
        model.output_fmt = Format.NLC
    return model, fit


def mechanism_of(name: str) -> Mechanism:
    """How the strides of a timm model, without a tag, are bounded; nothing is built for it."""
    convolutional = is_model_in_modules(name, CONVOLUTIONAL) and not name.startswith(_SPATIAL_GATES)
    return "dilated" if convolutional else "resized"


def list_backbones(pattern: str = "*", mechanism: Mechanism | None = None) -> list[str]:
    """Names of timm models, each an encoder, in timm's order.

    Args:
        pattern: With shell wildcards, such as "*convnext*".
        mechanism: Only those whose strides are bounded in this way.

    Raises:
        ValueError: If there is no such mechanism.
    """
    if mechanism not in (None, *get_args(Mechanism)):
        raise ValueError(f"mechanism is {mechanism!r}; it can be None, {', '.join(map(repr, get_args(Mechanism)))}")
    names = fnmatch.filter(timm.list_models(), pattern)
    return [name for name in names if mechanism in (None, mechanism_of(name))]


def timm_name(name: str) -> tuple[str, str]:
    """The timm name without smp's "tu-", and its tag or "", both checked against timm's lists.

    Raises:
        ValueError: If timm has no such model (with the closest names), or no such tag (with those that there are).
    """
    bare, _, tag = name.removeprefix("tu-").partition(".")
    if not timm.is_model(bare):
        close = difflib.get_close_matches(bare, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"timm {timm.__version__} has no model '{bare}'.{hint} See pspnet_zoo.list_backbones()")
    if tag:
        _check_tag(bare, tag)
    return bare, tag


def _check_arguments(depth: int, output_stride: int, dilation: Dilation, shortcut_pool: ShortcutPool) -> None:
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


def _tags(name: str) -> list[str]:
    return [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{name}.*")]


def _check_tag(name: str, tag: str) -> None:
    if tag not in (tags := _tags(name)):
        raise ValueError(f"timm {timm.__version__} has no weights '{tag}' of '{name}'. Tags: {', '.join(tags) or 'none'}")


def _stages(name: str, depth: int) -> tuple[int, ...]:
    """timm's indices of the stages that are left at a depth below 5."""
    with torch.device("meta"):
        net: Any = timm.create_model(name, features_only=True)
    indices = tuple(net.feature_info.out_indices)
    return indices[: len(indices) + depth - 5]


def _check_available(name: str) -> None:
    """Answer at once, and with the way on, where timm would ask an unreachable Hub for a minute.

    Raises:
        WeightsError: If the weights are neither in the Hub's cache nor to be had.
    """
    config: Any = timm.get_pretrained_cfg(name)
    if not config.hf_hub_id:
        return
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    if not is_cached_or_reachable(config.hf_hub_id, files):
        raise WeightsError(
            f"timm's weights of '{name}' are not in the cache, and the Hub is not reached. Without the network: fetch {files[0]} "
            f"of the Hub's repository {config.hf_hub_id} elsewhere, and give its path as encoder_weights"
        )


def _source(name: str, tag: str, weights: str | bool | None) -> tuple[str | None, str]:
    """The file that weights are in, or None; and the tag that timm is to be asked for, "" for its default."""
    if not isinstance(weights, str) or weights == "imagenet":
        if weights and not tag and not _tags(name):
            raise ValueError(
                f"timm {timm.__version__} has no weights of '{name}'. Tags: none. Leave encoder_weights out, "
                "or see timm.list_pretrained() for models that have some"
            )
        return None, tag
    if weights.endswith(".safetensors"):
        if not Path(weights).is_file():
            raise FileNotFoundError(f"No encoder weights at '{weights}'")
        return weights, tag
    _check_tag(name, weights)
    return None, weights
