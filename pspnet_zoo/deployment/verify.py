"""Compares an exported file with the network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..inference.scores import as_logits
from ..models.pspnet import PSPNet
from ..runtimes.exported import Exported
from .graph import RuntimeCall, enlarged, example

TOLERANCE = 1e-4
"""Largest difference of a float32 file's logits, as a fraction of the largest logit."""
_HALF_TOLERANCE = 0.1  # 8 bits of mantissa through fifty layers; a wrong graph differs by whole logits

_ROUNDING = 1e-6  # of a probability in float32

_CHECKS = (((224, 320), 1), ((133, 97), 2), ((57, 70), 1))
_FEWER = (1, 2)  # images, where there is one size


def verify(
    network: PSPNet, spec: Exported, run: RuntimeCall, *, checks: Sequence[tuple[tuple[int, int], int]] | None = None
) -> dict[str, Any]:
    """Compare a file with the network at several sizes and numbers of images.

    Args:
        network: In evaluation mode, in float32 on the CPU.
        spec: What the file is.
        run: Calls the file in its own runtime, with a tensor as in `Exported.input`.
        checks: ((height, width), number of images) of each comparison; None for the usual ones.

    Returns:
        For the metadata: sizes, and the largest difference relative to the largest logit. Of class ids: how far below the largest
        the logits of its pixels' ids are at most, relative to it; of multi-label, how far from its threshold a wrong one is.

    Raises:
        ValueError: If the file is wrong; the message says by how much.
    """
    limit = TOLERANCE if spec.precision == "float32" else _HALF_TOLERANCE
    if checks is None:
        checks = _CHECKS if spec.image_size is None else tuple((spec.image_size, count) for count in _FEWER)
    worst = 0.0
    for size, count in checks:
        images = example(spec, count, size)
        where = f"{count} x {size[0]}x{size[1]}"
        try:
            found = run(images)
        except Exception as error:  # of whichever runtime
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"The exported file does not run at {where}, so it is not kept: {reason}") from error
        difference = _difference(logits_of(network, spec, images), found, spec)
        if not difference <= limit:
            raise ValueError(
                f"The exported file is off by {difference:.1e} of the largest logit at {where}, where {limit:g} is allowed, so it "
                "is not kept. Please report the network's name"
            )
        worst = max(worst, difference)
    return {"sizes": [f"{n}x{h}x{w}" for (h, w), n in checks], "largest_relative_difference": worst, "allowed": limit}


@torch.no_grad()
def logits_of(network: PSPNet, spec: Exported, images: Tensor) -> Tensor:
    """(N, classes, H, W) of the network itself, of images as the file takes them; float32 logits of the size that it gives."""
    size = images.shape[-2:]
    if spec.input == "uint8":
        factor = spec.preprocess.input_scale
        if factor != 1:
            images = F.interpolate(images.float(), size=[enlarged(side, factor) for side in size], mode="bilinear", antialias=True)
        images = spec.preprocess.normalize(images)
    output: Any = network(images)
    logits = output[0] if isinstance(output, tuple) else output
    if spec.output != "logits":
        logits = as_logits(logits, network.activation, network.classes, spec.multilabel)
    whole = spec.input == "uint8" or spec.output != "logits"  # float32 logits are as the network gives them
    for side in (images.shape[-2:], size):  # one network stops at its stride, another reads upsampled images
        if whole and logits.shape[-2:] != side:
            logits = F.interpolate(logits, size=side, mode="bilinear")
    return logits


def _difference(logits: Tensor, found: Any, spec: Exported) -> float:
    """Relative to the largest logit; infinite if shapes differ or a value is no number.

    A probability differs by at most half of what its logits differ by, so a wrong confidence counts double, beyond its rounding.
    """
    wanted = logits.shape if spec.output == "logits" or spec.multilabel else logits[:, 0].shape
    found, confidence = found if spec.output == "ids+confidence" else (found, None)
    if found.shape != wanted or (confidence is not None and confidence.shape != wanted):
        return float("inf")
    largest = logits.abs().max().clamp(min=1e-30)
    if spec.output == "logits":
        return ((found - logits).abs().max() / largest).nan_to_num(float("inf")).item()
    shifted = spec.decision.shifted(logits)
    if spec.multilabel:
        return (shifted.abs() * (found != (shifted > 0))).max().item() / largest.item()
    worst = (shifted.amax(dim=1) - shifted.gather(1, found.long()[:, None])[:, 0]).max()
    if confidence is not None:
        probability = logits.softmax(dim=1).gather(1, found.long()[:, None])[:, 0]
        off = (confidence.float() / 255 - probability).abs().max() - 0.5 / 255 - _ROUNDING
        worst = torch.maximum(worst, 2 * off)
    return (worst / largest).clamp(min=0).item()
