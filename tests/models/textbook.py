"""The pyramid as the paper draws it: the reference for the factored form."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pspnet_zoo.models.pyramid import PyramidPooling


def textbook(pyramid: PyramidPooling, x: Tensor) -> Tensor:
    """What `pyramid(x)` must give, with the same parameters: pool, 1x1, resize, concatenate, 3x3."""
    parts = [x]
    for b, branch in zip(pyramid.bins, pyramid.branches, strict=True):
        cells = branch(F.adaptive_avg_pool2d(x, b))
        parts.append(F.interpolate(cells, size=x.shape[-2:], mode="bilinear", align_corners=pyramid.align_corners))
    return pyramid.fuse(torch.cat(parts, dim=1))
