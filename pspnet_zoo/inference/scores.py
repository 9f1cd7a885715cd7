"""From images to the scores of their classes, and to class ids: the one way, for prediction, evaluation and training alike.

What differs between networks is settled here, so that the same image and protocol give the same ids everywhere: the size at which
an image is read, windows for encoders of one size, one channel for two classes, outputs after an activation, and number types.
"""

import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..meta import IGNORE, Labels, Preprocess
from .protocols import PROTOCOLS, Protocol
from .windows import segment

_TINY = torch.finfo(torch.float32).tiny
_NEARLY = 1e-7  # how near to 0 and 1 a probability in float32 still has a logarithm on both sides


class Network(typing.Protocol):
    """What scores are asked of: a PSPNet, or anything that runs one."""

    @property
    def preprocess(self) -> Preprocess:
        """What it expects of an image."""
        ...

    @property
    def labels(self) -> Labels | None:
        """What its classes are."""
        ...

    @property
    def classes(self) -> int:
        """Channels of the output; 1 for a binary network."""
        ...

    @property
    def activation(self) -> str | Callable[[], nn.Module] | None:
        """What the output went through, by smp's names; None for logits. What a callable makes is taken for logits."""
        ...

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the largest image, in pixels; None for any."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the input has to be."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the input."""
        ...

    def __call__(self, x: Tensor, /) -> Any:
        """(N, C, H, W), normalised, to (N, classes, H, W), or to a tuple that starts with it."""
        ...


@torch.inference_mode()
def class_scores(model: Network, images: Tensor, protocol: Protocol = PROTOCOLS["whole"]) -> Tensor:
    """Scores whose largest is the class and whose softmax are the probabilities; see `class_ids` for the ids.

    A module is in evaluation mode meanwhile, and then left as it was.

    Args:
        model: See `Network`.
        images: (N, channels, H, W) uint8 of one size, RGB where there are 3 channels; on any device.
        protocol: How each is segmented; see `protocol_for`.

    Returns:
        (N, C, h, w) float32 on the model's device: C is the `number_of_ids`, (h, w) the images' size, or that to which they were
        shrunk, see `size_factor`.

    Raises:
        ValueError: If the activation leaves nothing to tell classes by.
    """
    height, width = images.shape[-2:]
    x = images.to(model.device)
    factor = size_factor(model.preprocess, height, width, protocol)
    if factor < 1:
        size = (max(round(height * factor), 1), max(round(width * factor), 1))
        x = F.interpolate(x.float(), size=size, mode="bilinear", antialias=True)
    elif factor > 1:
        protocol = replace(protocol, scales=tuple(scale * factor for scale in protocol.scales))
    x = model.preprocess(x)

    def net(window: Tensor) -> Tensor:
        # dilated depthwise convolutions are several times faster so on CPUs
        output = model(window.to(model.dtype).contiguous(memory_format=torch.channels_last))
        logits = as_logits(output[0] if isinstance(output, tuple) else output, model.activation, model.classes)
        if logits.shape[-2:] != window.shape[-2:]:  # a network that stops at its stride
            logits = F.interpolate(logits, size=window.shape[-2:], mode="bilinear")
        return logits

    with _evaluation_mode(model):
        return segment(net, x, protocol_for(model, protocol))


def class_ids(model: Network, images: Tensor, protocol: Protocol = PROTOCOLS["whole"]) -> Tensor:
    """(N, H, W) int64 on the model's device: what `class_scores` makes the likeliest, at the images' own size."""
    height, width = images.shape[-2:]
    return largest(class_scores(model, images, protocol), (height, width))


def class_probabilities(model: Network, images: Tensor, protocol: Protocol = PROTOCOLS["whole"]) -> Tensor:
    """(N, C, H, W) float32, 0..1, on the model's device: of `class_scores`, at the images' own size."""
    height, width = images.shape[-2:]
    return probabilities_of(class_scores(model, images, protocol), (height, width))


def probabilities_of(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) scores to (N, C, *size) probabilities, 0..1."""
    if scores.shape[-2:] != size:
        scores = F.interpolate(scores, size=size, mode="bilinear")
    return scores.softmax(dim=1)


def largest(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) scores to (N, *size) int64 ids; enlarged one class at a time, which takes two maps instead of C."""
    if scores.shape[-2:] == size:
        return scores.argmax(dim=1)
    best = torch.full((len(scores), *size), -torch.inf, device=scores.device)
    ids = torch.zeros((len(scores), *size), dtype=torch.int64, device=scores.device)
    for class_id in range(scores.shape[1]):
        score = F.interpolate(scores[:, class_id : class_id + 1], size=size, mode="bilinear")[:, 0]
        ids[score > best] = class_id
        best = torch.maximum(best, score)
    return ids


def stored(ids: Tensor, count: int) -> Tensor:
    """The ids on the CPU in the smallest unsigned type that holds `count` of them, and 255 for ignored where that is free."""
    kinds = ((IGNORE, torch.uint8), (2**16, torch.uint16))
    return ids.to("cpu", next((kind for most, kind in kinds if count <= most), torch.uint32))


def size_factor(preprocess: Preprocess, height: int, width: int, protocol: Protocol = PROTOCOLS["whole"]) -> float:
    """The sides at which a network sees an image of that size, before the protocol's scales, in the image's.

    More than 1 where the network was trained on enlarged ones, less than 1 where an image has more than `max_pixels`; 1 where the
    protocol itself says the size.
    """
    if protocol.within is not None:
        return 1.0
    return min(preprocess.input_scale_for(height, width), (preprocess.max_pixels / (height * width)) ** 0.5)


def protocol_for(model: Network, protocol: Protocol) -> Protocol:
    """The protocol that a network can follow: windows of at most its encoder's size, which then overlap by a third.

    Source of the overlap: hszhao/semseg tool/test.py.
    """
    most = model.image_size
    if most is None or (protocol.crop and protocol.crop[0] <= most[0] and protocol.crop[1] <= most[1]):
        return protocol
    wanted = protocol.crop or most
    crop = min(wanted[0], most[0]), min(wanted[1], most[1])
    return replace(protocol, crop=crop, stride=(-(-crop[0] * 2 // 3), -(-crop[1] * 2 // 3)))


def number_of_ids(model: Network) -> int:
    """How many ids a network tells apart: its classes, or background and foreground of a binary one."""
    return max(model.classes, 2)


def labels_of(model: Network) -> Labels | None:
    """What the ids of a network mean: its labels, with a black background before the one of a binary network.

    Raises:
        ValueError: If there is another number of them.
    """
    labels = model.labels
    if labels is None or len(labels) == number_of_ids(model):
        return labels
    if len(labels) == model.classes == 1:
        return Labels(("background", *labels.names), ((0, 0, 0), *labels.colors))
    raise ValueError(f"The network tells {number_of_ids(model)} classes apart and has {len(labels)} labels; set model.labels anew")


def as_logits(output: Tensor, activation: str | Callable[[], nn.Module] | None, classes: int) -> Tensor:
    """(N, number of ids, h, w) float32 whose softmax are the probabilities, of what a network gave after its activation.

    One channel is a binary network's: its logit is that of the foreground, id 1, against a background of 0. So ids are 1 where the
    logit is above 0, and its sigmoid above 0.5.

    Raises:
        ValueError: If the activation makes a single channel the same everywhere.
    """
    if classes == 1 and activation in ("softmax", "softmax2d", "logsoftmax", "argmax", "argmax2d"):
        raise ValueError(
            f"activation is {activation!r}, which is the same everywhere for one class; a binary network has 'sigmoid'"
        )
    if activation in ("argmax", "argmax2d"):
        output = F.one_hot(output.long(), classes).movedim(-1, 1)
    output = output.float()
    if activation in ("softmax", "softmax2d", "argmax", "argmax2d"):
        output = output.clamp(min=_TINY).log()
    elif activation in ("sigmoid", "clamp"):
        output = output.logit(eps=_NEARLY)
    elif activation == "tanh":
        output = output.clamp(_NEARLY - 1, 1 - _NEARLY).atanh()
    return with_background(output)


def with_background(logits: Tensor) -> Tensor:
    """(N, C, h, w) as it is; one channel as two, with 0 for the background before it."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


@contextmanager
def _evaluation_mode(model: Network) -> Iterator[None]:
    training = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for module in training:  # one by one, since some norms may be frozen
            module.training = True
