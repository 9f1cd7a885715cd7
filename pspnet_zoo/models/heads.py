"""The heads: the pixel classifier, the auxiliary head and the image-level head."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pyramid import conv_norm_relu

Activation = str | Callable[[], nn.Module] | None


class SegmentationHead(nn.Sequential):
    """Logits of every pixel: [0] the 1x1 classifier, [1] bilinear resizing, [2] the activation.

    Args:
        in_channels: Channels of the fused map.
        classes: Channels of the output.
        activation: See `make_activation`.
        scale: Resizing factor where the caller gives no size.
        align_corners: See `Resize`.
    """

    def __init__(self, in_channels: int, classes: int, *, activation: Activation, scale: int, align_corners: bool | None) -> None:
        if not isinstance(align_corners, bool | None):
            raise ValueError(f"align_corners is {align_corners!r}; it can be True, False or None")
        super().__init__(
            nn.Conv2d(in_channels, classes, kernel_size=1),
            Resize(scale, align_corners=align_corners),
            make_activation(activation),
        )

    def forward(self, input: Tensor, size: tuple[int, int] | None = None, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """(N, in_channels, h, w) to (N, classes, *size); without a size, to (N, classes, scale * h, scale * w)."""
        classifier, resize, activation = self
        return activation(resize(classifier(input), size, offset))


class AuxiliaryHead(SegmentationHead):
    """The paper's second classifier, on the stage before the last (section 3.3): it starts with a 3x3 convolution of its own."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: int | None,
        norm: Callable[[int], nn.Module] | None,
        dropout: float,
        scale: int,
        align_corners: bool | None,
    ) -> None:
        width = width or max(in_channels // 4, 1)
        super().__init__(width, classes, activation=None, scale=scale, align_corners=align_corners)
        self[0] = nn.Sequential(*conv_norm_relu(in_channels, width, 3, norm), nn.Dropout2d(dropout), self[0])


class ClassificationHead(nn.Sequential):
    """The image-level label, as in smp: pool, flatten, dropout, linear, activation.

    Args:
        in_channels: Channels of the encoder's last feature.
        classes: Length of the output.
        pooling: "avg" or "max" over all positions.
        dropout: Probability, 0 to 1.
        activation: See `make_activation`.
    """

    def __init__(
        self, in_channels: int, classes: int, pooling: str = "avg", dropout: float = 0.2, activation: Activation = None
    ) -> None:
        if pooling not in ("avg", "max"):
            raise ValueError(f"pooling is {pooling!r}; it can be 'avg' or 'max'")
        super().__init__(
            nn.AdaptiveAvgPool2d(1) if pooling == "avg" else nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout) if dropout else nn.Identity(),
            nn.Linear(in_channels, classes),
            make_activation(activation),
        )


class Resize(nn.Module):
    """Bilinear resizing to a size, or by a whole factor.

    Args:
        scale: Pixels between positions of the input feature map.
        align_corners: True and False are those of torch's interpolate, which stretch the positions over the image. None puts
            position i on the pixel offset + scale * i, its true centre in the encoder, and repeats the outer ones beyond.
    """

    def __init__(self, scale: int, *, align_corners: bool | None) -> None:
        super().__init__()
        self.scale = scale
        self.align_corners = align_corners

    def forward(self, x: Tensor, size: tuple[int, int] | None = None, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """(N, C, h, w) to (N, C, *size)."""
        height, width = size or (x.shape[-2] * self.scale, x.shape[-1] * self.scale)
        if self.align_corners is not None:
            return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=self.align_corners)
        top, left = offset
        rows = self._weights(x.shape[-2], height, top, x)
        columns = self._weights(x.shape[-1], width, left, x)
        return rows @ x @ columns.T

    def _weights(self, count: int, size: int, first: int, like: Tensor) -> Tensor:
        """(size, count) weights of linear interpolation between the positions on pixels first, first + scale, ..."""
        position = ((torch.arange(size, device=like.device) - first) / self.scale).clamp(0, count - 1)
        distance = position[:, None] - torch.arange(count, device=like.device)
        return (1 - distance.abs()).clamp(min=0).to(like.dtype)


class Argmax(nn.Module):
    """The index of the largest channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(dim=1)


class Clamp(nn.Module):
    """Values bounded to 0..1."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x, 0, 1)


class Activated(nn.Module):
    """The last module of smp's heads: `activation`, the layer itself."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


_ACTIVATIONS: dict[str | None, Callable[[], nn.Module]] = {
    None: nn.Identity,
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "softmax2d": lambda: nn.Softmax(dim=1),
    "logsoftmax": lambda: nn.LogSoftmax(dim=1),
    "tanh": nn.Tanh,
    "argmax": Argmax,
    "argmax2d": Argmax,
    "clamp": Clamp,
}


def make_activation(activation: Activation) -> nn.Module:
    """The layer that one of smp's activation names, or a callable without arguments, stands for, in smp's wrapper.

    Classes are on dimension 1.

    Raises:
        ValueError: If the name is unknown.
    """
    if callable(activation):
        return Activated(activation())
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"activation is {activation!r}; it can be None, a callable, or one of {', '.join(filter(None, _ACTIVATIONS))}"
        )
    return Activated(_ACTIVATIONS[activation]())


_COUNTS = ("psp_out_channels", "in_channels", "classes", "upsampling", "aux_channels", "psp_bin_channels", "encoder_stem_width")


def check_counts(arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError if an argument of PSPNet that counts something is neither None nor a whole number of 1 or more."""
    for name in _COUNTS:
        count = arguments.get(name)
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"{name} is {count!r}; it must be a whole number of 1 or more")


def initialize(part: nn.Module) -> None:
    """Fresh weights, as in smp: xavier for what gives the output, kaiming for the convolutions before it, norms at 1 and 0."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if isinstance(module, nn.Linear) or (module.kernel_size == (1, 1) and module.bias is not None):
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
