"""timm models as feature extractors: which there are, with which weights, and what input they take."""

import difflib
import fnmatch
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from timm.layers import Format
from timm.models import is_model_in_modules
from torch import Tensor, nn
from torch.nn import functional as F

from ..storage.errors import WeightsError
from ..storage.files import read_safetensors
from ..storage.hub import is_cached_or_reachable

Mechanism = Literal["dilated", "resized"]
"""The way in which later strides are bounded: "dilated" evaluates the network densely, see `pspnet_zoo.models.dilated`; "resized"
resizes the features that timm gives, see `pspnet_zoo.models.resized`."""

Weights = str | os.PathLike[str] | bool | None
"""Weights of an encoder: None or False for none, True or "imagenet" for timm's default, a timm tag, or a .safetensors file."""

_log = logging.getLogger(__name__)

_LOADED = 0.9
"""Least part of a model's numbers that a file of weights must hold, 0 to 1: timm resizes some tensors, which are small."""

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
"""Prefixes of models inside those modules with attention or gates at half the resolution, which dilation would change."""


@dataclass(frozen=True)
class Backbone:
    """A timm model and its weights, before it is built."""

    name: str
    """timm's name, without a tag."""
    tag: str
    """timm's tag of the weights; "" for its default."""
    pretrained: bool
    file: str | None
    """A .safetensors file with timm's keys, in place of the tag's weights."""
    in_channels: int
    drop_path_rate: float = 0.0

    @property
    def tagged_name(self) -> str:
        """timm's name with the tag, if there is one."""
        return f"{self.name}.{self.tag}" if self.tag else self.name

    def build(self, options: dict[str, Any]) -> Any:
        """timm's feature extractor with its weights; see `build_backbone`."""
        if self.pretrained and self.file is None:
            _check_available(self.tagged_name)
        if self.drop_path_rate:
            options = {**options, "drop_path_rate": self.drop_path_rate}
        return build_backbone(self.tagged_name, self.in_channels, options, self.pretrained, self.file)


def find_backbone(name: str, weights: Weights, *, in_channels: int, drop_path_rate: float = 0.0) -> Backbone:
    """The timm model of a name, and where its weights are; nothing is built or downloaded.

    Args:
        name: A timm model, with or without a tag; smp's prefix "tu-" is accepted.
        weights: None, False, True, "imagenet", a timm tag or the path of a .safetensors file.
        in_channels: Channels of its input.
        drop_path_rate: Rate of stochastic depth, 0 to 1.

    Raises:
        ValueError: If timm has no such model, or no such weights.
        FileNotFoundError: If there is no such file.
    """
    bare, tag = timm_name(name)
    file, tag = _source(bare, tag, weights)
    return Backbone(bare, tag, bool(weights), file, in_channels, drop_path_rate)


@dataclass(frozen=True)
class InputPadding:
    """Sizes of image that a model takes; others are padded to them."""

    multiple: int = 1
    """Divisor of the sides of the model's input, in pixels."""
    minimum: int = 1
    """Smallest side of the model's input, in pixels."""
    size: tuple[int, int] | None = None
    """Height and width of the only input that the model takes; None for any."""

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) with zeros below and on the right, to a size that the model takes.

        Raises:
            ValueError: If the model takes one size only, and x is larger.
        """
        if self.size is None and self.multiple == self.minimum == 1:
            return x
        if self.size is None and torch.compiler.is_compiling():
            return self._pad_any(self._pad_any(x, -2), -1)
        height, width = x.shape[-2:]
        if self.size is None:
            bottom, right = (max(units(side, self.multiple) * self.multiple, self.minimum) - side for side in (height, width))
        elif height <= self.size[0] and width <= self.size[1]:
            bottom, right = self.size[0] - height, self.size[1] - width
        else:
            raise ValueError(
                f"The encoder takes images of up to {self.size[0]}x{self.size[1]} pixels, not {height}x{width}. Use "
                "sliding-window inference with crops of that size, or build the network for larger images by encoder_image_size"
            )
        return F.pad(x, (0, right, 0, bottom))

    def _pad_any(self, x: Tensor, dim: int) -> Tensor:
        """Pad one side in operations that are the same for every size, where F.pad would be left out at some."""
        side = x.shape[dim]
        size = units(side, self.multiple) * self.multiple
        if self.minimum > self.multiple:
            size = torch.sym_max(size, self.minimum)
        position = torch.arange(size, device=x.device)
        inside = (position < side).to(x.dtype)
        return x.index_select(dim, position.clamp(max=side - 1)) * (inside[:, None] if dim == -2 else inside)


def units(side: int, unit: int) -> int:
    """Number of units that cover a side. Not -(-side // unit): ONNX rounds quotients of negative numbers the other way."""
    return (side + unit - 1) // unit


def mechanism_of(name: str) -> Mechanism:
    """The way in which the strides of a timm model, named without a tag, are bounded; nothing is built for it."""
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


def _tags(name: str) -> list[str]:
    return [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{name}.*")]


def _check_tag(name: str, tag: str) -> None:
    if tag not in (tags := _tags(name)):
        raise ValueError(f"timm {timm.__version__} has no weights '{tag}' of '{name}'. Tags: {', '.join(tags) or 'none'}")


def build_backbone(
    name: str, in_channels: int, options: dict[str, Any], pretrained: bool = False, file: str | None = None
) -> nn.Module:
    """timm's feature extractor, without stages that no feature depends on.

    Args:
        name: Of a timm model, with or without a tag.
        in_channels: Channels of its input.
        options: More arguments of `timm.create_model`; with "fuse", the blocks of `FusedBlocks`.
        pretrained: Whether to load weights: of the file, else those of the tag.
        file: A .safetensors file with timm's keys.

    Raises:
        ValueError: If the weights do not load for the size of image in `options`, or for the channels.
        WeightsError: If the file is damaged, or of another model.
    """
    if pretrained and in_channels != 3:
        _check_first_layer(name, in_channels)
    options = dict(options)
    tensors = read_safetensors(Path(file)) if file else {}
    fuse = options.pop("fuse", None)
    kind: dict[str, Any] = {"features_only": True} if fuse is None else {"num_classes": 0}
    try:
        net: Any = timm.create_model(
            name,
            pretrained=pretrained,
            pretrained_cfg_overlay={"file": file} if file else None,
            in_chans=in_channels,
            **kind,
            **options,
        )
        if fuse is not None:
            net = FusedBlocks(net, name, fuse)
    except TypeError as error:
        if "drop_path_rate" in options and "drop_path_rate" in str(error):
            raise ValueError(f"'{name}' has no stochastic depth in timm; leave out drop_path_rate") from None
        raise
    except (RuntimeError, AssertionError, KeyError) as error:
        if pretrained and "img_size" in options:
            raise ValueError(
                f"The weights of '{name}' do not load for images of {options['img_size']}: timm cannot resize them. Leave "
                f"encoder_image_size out, and use sliding-window inference for larger images. ({error})"
            ) from error
        if file:
            raise WeightsError(f"'{file}' is not of '{name}': {str(error).strip().splitlines()[-1].strip()}") from None
        raise
    if file:
        _check_loaded(net, name, file, tensors, in_channels)
    if isinstance(getattr(net, "blocks", None), nn.Sequential):  # EfficientNets keep the stages after the last feature
        net.blocks = net.blocks[: net.feature_info.get_dicts()[-1]["stage"]]
    for path, module in net.named_modules():
        # rounds down where the shortcut beside it rounds up: odd sizes would fail
        if path.endswith(".aa") and isinstance(module, nn.AvgPool2d):
            module.ceil_mode, module.count_include_pad = True, False
    return net


def _check_loaded(net: nn.Module, name: str, file: str, tensors: Mapping[str, Tensor], in_channels: int) -> None:
    """Refuse a file that does not hold a model: timm passes over names that only one of the two has.

    Nearly all numbers must be found, since timm resizes tables of positions, but for the first layer where it is adapted to other
    channels; and all biases and norms with their statistics.
    """

    def mark(tensor: Tensor) -> tuple[int, float]:
        return tensor.numel(), tensor.detach().float().sum().item()

    known = {mark(tensor) for tensor in tensors.values()}
    own = [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
    adapted = None if in_channels == 3 else in_channels
    missing = [tensor for tensor in own if mark(tensor) not in known and tensor.shape[1:2] != (adapted,)]
    numbers = sum(tensor.numel() for tensor in own)
    found = numbers - sum(tensor.numel() for tensor in missing)
    if found < _LOADED * numbers or any(tensor.ndim == 1 for tensor in missing):
        raise WeightsError(
            f"'{file}' holds {len(own) - len(missing)} of the {len(own)} tensors of '{name}' under timm's names; give timm's own "
            "file of this model, or start from a checkpoint of this package by --init or load()"
        )


def _check_first_layer(name: str, in_channels: int) -> None:
    """Refuse other channels for weights whose first layer timm cannot adapt, and would leave random.

    Raises:
        ValueError: If that layer is no convolution of three channels.
    """
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    first = model.pretrained_cfg.get("first_conv") or ()
    layers = [model.get_submodule(each) for each in ([first] if isinstance(first, str) else first)]
    if any(layer.weight.ndim != 4 or layer.weight.shape[1] != 3 for layer in layers):
        raise ValueError(
            f"in_channels is {in_channels}, and timm cannot adapt the first layer of '{name}', which reads 3; leave out the "
            "weights of the encoder, or choose another backbone"
        )


class FusedBlocks(nn.Module):
    """Two features of a plain vision transformer: a block at two thirds of its depth, and the chosen blocks beside each other.

    Each is normalised by the model's own last norm.

    Args:
        model: timm's model.
        name: Its name, for errors.
        fuse: How many of the last blocks, or the indices of blocks.

    Raises:
        ValueError: If the model is no plain vision transformer, or has no such blocks.

    Source: arXiv 2304.07193 (DINOv2), section 7.4, whose boosted linear head reads the patch tokens of the last four layers.
    """

    def __init__(self, model: Any, name: str, fuse: int | Sequence[int]) -> None:
        strides = {info["reduction"] for info in getattr(model, "feature_info", None) or [] if isinstance(info, dict)}
        if len(strides) != 1 or not hasattr(model, "forward_intermediates") or not hasattr(model, "blocks"):
            raise ValueError(f"'{name}' is no plain vision transformer, whose blocks could be fused; leave out encoder_fuse={fuse}")
        depth = len(model.blocks)
        chosen = range(depth - fuse, depth) if isinstance(fuse, int) else fuse
        if not chosen or not all(0 <= block < depth for block in chosen):
            raise ValueError(
                f"encoder_fuse is {fuse}; '{name}' has {depth} blocks: give 1 to {depth}, or indices from 0 to {depth - 1}"
            )
        middle = depth * 2 // 3 - 1
        read = sorted({middle, *chosen})
        super().__init__()
        self.read = model.prune_intermediate_layers(read, prune_norm=False)
        self.model, self.output_fmt = model, Format.NCHW
        self.pretrained_cfg = model.pretrained_cfg
        self._middle, self._chosen = read.index(middle), [read.index(block) for block in chosen]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, h, w), and (N, blocks * C, h, w); (N, positions, ...) if `output_fmt` says so."""
        features = self.model.forward_intermediates(
            x, indices=self.read, norm=True, output_fmt=self.output_fmt.value, intermediates_only=True
        )
        channels = 1 if self.output_fmt == Format.NCHW else -1
        return [features[self._middle], torch.cat([features[i] for i in self._chosen], dim=channels)]


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
            f"of the Hub's repository {config.hf_hub_id} elsewhere, and build '{name}' with its path as encoder_weights"
        )


def _source(name: str, tag: str, weights: Weights) -> tuple[str | None, str]:
    """The file that weights are in, or None; and the tag that timm is to be asked for, "" for its default."""
    if isinstance(weights, os.PathLike):
        weights = os.fspath(weights)
        if not weights.endswith(".safetensors"):
            raise ValueError(f"encoder_weights is '{weights}'; a file of weights ends in .safetensors")
    if not isinstance(weights, str | bool | None):
        raise TypeError(f"encoder_weights is a {type(weights).__name__}; it can be None, a bool, 'imagenet', a tag or a path")
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
        configs: list[Any] = [timm.get_pretrained_cfg(f"{name}.{each}") for each in _tags(name)] if not tag else []
        if len({(config.mean, config.std) for config in configs}) > 1:
            default: Any = timm.get_pretrained_cfg(name)
            _log.warning(
                "timm's weights of '%s' do not all normalise alike; '%s' is read with mean %s and std %s, those of '%s'. Name the "
                "encoder NAME.TAG if it is another",
                name, weights, default.mean, default.std, default.tag,
            )  # fmt: skip
        return weights, tag
    _check_tag(name, weights)
    return None, weights
