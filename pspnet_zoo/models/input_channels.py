"""A checkpoint of one number of input channels in a network of another."""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from ..meta import Preprocess

_log = logging.getLogger(__name__)


def adapt_preprocess(preprocess: Preprocess, channels: int, folder: Path) -> Preprocess:
    """The preprocessing with means and standard deviations repeated or cut; names of bands, which hold no more, are dropped."""
    own = len(preprocess.mean)
    if own == channels:
        return preprocess
    if preprocess.bands:
        _log.warning(
            "The bands %s of '%s' are dropped, since the network reads %d channels: set .preprocess anew",
            ", ".join(preprocess.bands),
            folder,
            channels,
        )
    mean, std = (tuple(values[i % own] for i in range(channels)) for values in (preprocess.mean, preprocess.std))
    return replace(preprocess, mean=mean, std=std, bands=())


def adapt_tensors(tensors: Mapping[str, Tensor], channels: int, model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The tensors with the first convolution's adapted to the network's number of input channels, with a word on it.

    Args:
        tensors: Of a checkpoint, by name.
        channels: Input channels of the checkpoint.
        model: The network of another number of input channels.
        folder: The checkpoint's, for the message.
    """
    own = model.state_dict()
    adapted = {
        key: _adapted(tensor, own[key].shape[1])
        for key, tensor in tensors.items()
        if key in own and tensor.ndim == 4 and tensor.shape[1] == channels and own[key].shape != tensor.shape
    }
    for tensor in adapted.values():
        _log.warning(
            "The first convolution reads %d channels in '%s', and is adapted to %d as timm does: repeated over them, and scaled",
            channels,
            folder,
            tensor.shape[1],
        )
    return {**tensors, **adapted}


def _adapted(weight: Tensor, channels: int) -> Tensor:
    """A convolution's weight for another number of input channels: their sum for one, else repeated and scaled.

    Source: timm.models.adapt_input_conv, which does it for weights of three channels.
    """
    base = weight.shape[1]
    full = weight.float()
    if channels == 1:
        return full.sum(dim=1, keepdim=True).to(weight.dtype)
    repeated = full.repeat(1, math.ceil(channels / base), 1, 1)[:, :channels]
    return (repeated * (base / channels)).to(weight.dtype)
