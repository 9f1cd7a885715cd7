"""Class scores and class ids of images, computed in the same way for prediction, evaluation and training.

The same image and protocol give the same ids everywhere. This module handles what differs between networks: input size, windows for
encoders of one size, binary networks with one channel, outputs after an activation, and number types.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..meta import IGNORE, NEARLY, TINY, Decision, Labels, Preprocess
from .protocols import PROTOCOLS, InferenceProtocol
from .windows import segment

_FAR = 1e6
"""Absolute value after normalisation from which an image is refused. Ordinary ones are less than 100; values such as 1e20 and
-3.4e38 stand for no data, and a network may overflow on them without a word, since a fused ReLU makes 0 of NaN."""

_MAX_SIDE = 16384
"""Longest side of the network's input, in pixels: the memory of resizing grows with its square."""


class SegmentationModel(Protocol):
    """A PSPNet, or a runtime that runs one."""

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing of an image for the model."""
        ...

    @property
    def labels(self) -> Labels | None:
        """Names and colors of the classes."""
        ...

    @property
    def classes(self) -> int:
        """Number of channels of the output; 1 for a binary network."""
        ...

    @property
    def activation(self) -> str | Callable[[], nn.Module] | None:
        """The activation after the logits, by smp's names; None for none. A callable is taken to give logits."""
        ...

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the largest image, in pixels; None for any."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the input."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the input."""
        ...

    def __call__(self, x: Tensor, /) -> Any:
        """(N, classes, H, W) of (N, C, H, W), normalised; or a tuple that starts with it."""
        ...


@torch.inference_mode()
def class_scores(model: SegmentationModel, images: Tensor, protocol: InferenceProtocol = PROTOCOLS["whole"]) -> Tensor:
    """Compute the scores of the classes, from which `decision_of` the model gives the classes and probabilities.

    A module is put into evaluation mode meanwhile, and back into its own afterwards; a runtime is safe in threads.

    Args:
        model: See `SegmentationModel`.
        images: (N, channels, H, W) of one size on any device: uint8 where white is 255, RGB where there are 3 channels.
        protocol: Inference protocol; see `protocol_for`.

    Returns:
        (N, C, h, w) float32 on the model's device: C is the `number_of_ids`, (h, w) the size of the images, or the smaller one to
        which they were resized, see `size_factor`.

    Raises:
        ValueError: If the images are of another type than the model reads, its activation makes all classes alike, or
            `check_protocol` refuses the protocol.
        FloatingPointError: If scores are NaN, or an image has values of 1e6 and more after normalisation.
    """
    model.preprocess.check_type(images)
    check_protocol(model, protocol)
    decision = decision_of(model)
    height, width = images.shape[-2:]
    x = images.to(model.device)
    factor = size_factor(model.preprocess, height, width, protocol)
    if factor < 1:
        size = (max(round(height * factor), 1), max(round(width * factor), 1))
        x = F.interpolate(x.float(), size=size, mode="bilinear", antialias=True)
    elif factor > 1:
        protocol = replace(protocol, scales=tuple(scale * factor for scale in protocol.scales))
    x = model.preprocess.normalize(x)
    low, high = x.aminmax()
    if not max(-float(low), float(high)) < _FAR:  # also NaN
        raise FloatingPointError(
            f"This image has values from {float(low):.3g} to {float(high):.3g} after normalisation; they must be less than "
            f"{_FAR:g} from 0. Mark such values as no-data in the file, or correct the range that is stated for the images"
        )

    def net(window: Tensor) -> Tensor:
        # in channels_last, dilated depthwise convolutions are several times faster on CPUs
        output = model(window.to(model.dtype).contiguous(memory_format=torch.channels_last))
        logits = as_logits(output[0] if isinstance(output, tuple) else output, model.activation, model.classes, decision.multilabel)
        if logits.shape[-2:] != window.shape[-2:]:  # a network that stops at its stride
            logits = F.interpolate(logits, size=window.shape[-2:], mode="bilinear")
        return logits

    with _evaluation_mode(model):
        scores = segment(net, x, protocol_for(model, protocol), decision)
    if scores.amax().isnan():  # its argmax would be the first class, everywhere
        raise FloatingPointError(
            "The model's scores are NaN: its weights are damaged, or their outputs exceed its precision. Copy or train "
            "the weights again, or compute in float32"
        )
    return scores


def check_protocol(model: SegmentationModel, protocol: InferenceProtocol) -> None:
    """Refuse windows of a network that prediction gives larger ones, since it upsamples its images.

    Raises:
        ValueError: If the windows have the image's own size, or the model is an exported file that would upsample each of them.
    """
    itself = getattr(model, "upsamples", False)
    if protocol.crop and (itself or (model.preprocess.input_scale != 1 and not protocol.within)):
        how, others = (" itself", ", or export the network with --input float32") if itself else ("", "")
        raise ValueError(
            f"The network upsamples its images{how}, so that the windows of this protocol are not those that it is given in "
            f"prediction; use the protocol 'whole'{others}"
        )


@contextmanager
def named_image(path: Path) -> Iterator[None]:
    """Name the image in the errors of `class_scores` that do not."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"'{path}': {error}") from None


def class_ids(model: SegmentationModel, images: Tensor, protocol: InferenceProtocol = PROTOCOLS["whole"]) -> Tensor:
    """Compute the class ids at the size of the images, (N, H, W) int64 on the model's device; of multi-label, (N, C, H, W) bool."""
    height, width = images.shape[-2:]
    return decided(class_scores(model, images, protocol), (height, width), decision_of(model))


def class_probabilities(model: SegmentationModel, images: Tensor, protocol: InferenceProtocol = PROTOCOLS["whole"]) -> Tensor:
    """Compute class probabilities at the size of the images, (N, C, H, W) float32 of 0 to 1 on the model's device."""
    height, width = images.shape[-2:]
    return probabilities_of(class_scores(model, images, protocol), (height, width), decision_of(model))


def probabilities_of(scores: Tensor, size: tuple[int, int], decision: Decision) -> Tensor:
    """Turn (N, C, h, w) scores into (N, C, *size) probabilities of 0 to 1."""
    if scores.shape[-2:] != size:
        scores = F.interpolate(scores, size=size, mode="bilinear")
    return decision.probabilities(scores)


def confidences(scores: Tensor, ids: Tensor) -> Tensor:
    """Turn (N, C, h, w) scores and (N, H, W) ids into (N, H, W) uint8, the probability of each pixel's id times 255, rounded.

    Upsampled one class at a time, in the memory of three instead of C.
    """
    size = (ids.shape[-2], ids.shape[-1])
    total, own = torch.full((2, *ids.shape), -torch.inf, device=scores.device)
    for class_id in range(scores.shape[1]):
        score = scores[:, class_id : class_id + 1]
        score = (score if score.shape[-2:] == size else F.interpolate(score, size=size, mode="bilinear"))[:, 0]
        total, own = torch.logaddexp(total, score), torch.where(ids == class_id, score, own)
    return ((own - total).exp() * 255).round().to(torch.uint8)


def decision_of(model: SegmentationModel) -> Decision:
    """The rule by which the classes follow from the scores of a model."""
    return Decision(getattr(model, "multilabel", False), getattr(model, "threshold", None))


def decided(scores: Tensor, size: tuple[int, int], decision: Decision) -> Tensor:
    """Turn (N, C, h, w) scores into (N, *size) int64 ids, or (N, C, *size) bool of multi-label.

    They are upsampled one class at a time, in the memory of two instead of C.
    """
    same = scores.shape[-2:] == size
    if same and (decision.multilabel or scores.device.type != "cpu"):
        return decision(scores)
    scores = decision.shifted(scores)
    each = (scores[:, class_id : class_id + 1] for class_id in range(scores.shape[1]))
    upsampled = ((score if same else F.interpolate(score, size=size, mode="bilinear"))[:, 0] for score in each)
    if decision.multilabel:
        return torch.stack([score > 0 for score in upsampled], dim=1)
    best = torch.full((len(scores), *size), -torch.inf, device=scores.device)
    # on CPUs a running maximum over small ids takes a ninth of the time of argmax, which reads one pixel of all classes at a time
    ids = torch.zeros((len(scores), *size), dtype=torch.uint8 if scores.shape[1] <= 256 else torch.int64, device=scores.device)
    for class_id, score in enumerate(upsampled):
        ids.masked_fill_(score > best, class_id)
        torch.maximum(best, score, out=best)
    return ids.long()


def stored(ids: Tensor, count: int) -> Tensor:
    """Move ids to the CPU, in the smallest unsigned type that holds `count` of them and, up to 255 of them, the ignored 255.

    Masks of multi-label stay bool.
    """
    if ids.dtype == torch.bool:
        return ids.cpu()
    kinds = ((IGNORE, torch.uint8), (2**16, torch.uint16))
    return ids.to("cpu", next((kind for most, kind in kinds if count <= most), torch.uint32))


def reads_photos(preprocess: Preprocess) -> bool:
    """Whether a network reads 8-bit RGB, or the luma of it; others read bands by `pspnet_zoo.data.rasters`."""
    return len(preprocess.mean) in (1, 3) and preprocess.white == 255 and not preprocess.bands


def to_luma(pixels: Tensor) -> Tensor:
    """(..., 1, H, W) uint8 of (..., 3, H, W) RGB: ITU-R BT.601 as in Pillow, so that gray stays what it is."""
    luma = (pixels.int() * torch.tensor([19595, 38470, 7471]).view(3, 1, 1)).sum(dim=-3, keepdim=True)
    return ((luma + 2**15) >> 16).to(torch.uint8)


def as_read(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """(..., C, H, W) pixels as a network reads them: uint8 RGB becomes luma for one of a single channel; all else stays."""
    return to_luma(pixels) if reads_photos(preprocess) and len(preprocess.mean) == 1 and pixels.shape[-3] == 3 else pixels


def size_factor(preprocess: Preprocess, height: int, width: int, protocol: InferenceProtocol = PROTOCOLS["whole"]) -> float:
    """Input scale factor of an image of that size, before the scales of the protocol.

    More than 1 for networks trained on upsampled images. Less than 1 for an image of more than `max_pixels`, or one side of more
    than 16384 pixels. 1 where the protocol states the size. Windows keep a large image at its size, since each of them is small.
    """
    if protocol.within is not None:
        return 1.0
    if protocol.crop is not None:
        return preprocess.input_scale_for(height, width)
    most = min((preprocess.max_pixels / (height * width)) ** 0.5, _MAX_SIDE / max(height, width))
    return min(preprocess.input_scale_for(height, width), most)


def protocol_for(model: SegmentationModel, protocol: InferenceProtocol) -> InferenceProtocol:
    """Limit a protocol to windows of at most the encoder's size, which then overlap by a third.

    Source of the overlap: hszhao/semseg tool/test.py.
    """
    most = model.image_size
    if most is None or (protocol.crop and protocol.crop[0] <= most[0] and protocol.crop[1] <= most[1]):
        return protocol
    wanted = protocol.crop or most
    crop = min(wanted[0], most[0]), min(wanted[1], most[1])
    return replace(protocol, crop=crop, stride=(-(-crop[0] * 2 // 3), -(-crop[1] * 2 // 3)))


def gives_ids(model: SegmentationModel) -> bool:
    """Whether a model gives class ids, perhaps with rounded probabilities, so that there is no loss of its scores."""
    return getattr(model, "gives_ids", model.activation in ("argmax", "argmax2d"))


def number_of_ids(model: SegmentationModel) -> int:
    """Number of ids in the masks of a network: its classes, or background and foreground of a binary one."""
    return model.classes if decision_of(model).multilabel else max(model.classes, 2)


def labels_of(model: SegmentationModel) -> Labels | None:
    """Labels of the ids in a network's masks; those of a binary network begin with a black background.

    Raises:
        ValueError: If the network has another number of labels.
    """
    labels = model.labels
    if labels is None or len(labels) == number_of_ids(model):
        multilabel = decision_of(model).multilabel
        return labels if labels is None or labels.multilabel == multilabel else replace(labels, multilabel=multilabel)
    if len(labels) == model.classes == 1:
        return Labels(("background", *labels.names), ((0, 0, 0), *labels.colors))
    raise ValueError(f"The network has {number_of_ids(model)} classes and {len(labels)} labels; set model.labels to one a class")


def as_logits(output: Tensor, activation: str | Callable[[], nn.Module] | None, classes: int, multilabel: bool = False) -> Tensor:
    """Undo the activation of a network's output: (N, number of ids, h, w) float32 whose softmax are the probabilities.

    The one channel of a binary network is the logit of the foreground, id 1, against 0 for the background: ids are 1 where the
    logit is above 0, and its sigmoid above 0.5. Of a multi-label network, the sigmoid of each channel is the probability.

    Raises:
        ValueError: If the activation makes a single channel the same everywhere, or classes exclude each other in multi-label.
    """
    if multilabel and activation in ("softmax", "softmax2d", "logsoftmax", "argmax", "argmax2d"):
        raise ValueError(
            f"activation is {activation!r}, in which one class excludes the others, and the network is multi-label; use 'sigmoid'"
        )
    if classes == 1 and activation in ("softmax", "softmax2d", "logsoftmax", "argmax", "argmax2d"):
        raise ValueError(
            f"activation is {activation!r}, which is the same everywhere for one class; a binary network has 'sigmoid'"
        )
    if activation in ("argmax", "argmax2d"):
        output = F.one_hot(output.long(), classes).movedim(-1, 1)
    output = output.float()
    if activation in ("softmax", "softmax2d", "argmax", "argmax2d"):
        output = output.clamp(min=TINY).log()
    elif activation in ("sigmoid", "clamp"):
        output = output.logit(eps=NEARLY)
    elif activation == "tanh":
        output = output.clamp(NEARLY - 1, 1 - NEARLY).atanh()
    return output if multilabel else with_background(output)


def with_background(logits: Tensor) -> Tensor:
    """Give (N, C, h, w) logits as they are, but one channel as two, with 0 for the background first."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


@contextmanager
def _evaluation_mode(model: SegmentationModel) -> Iterator[None]:
    training = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for module in training:  # one by one, since norms may be frozen
            module.training = True
