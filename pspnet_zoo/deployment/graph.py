"""A network as a graph of operations, at any size where the network takes any."""

import copy
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..inference.scores import as_logits
from ..models.pspnet import PSPNet
from ..runtimes.exported import Exported
from .cubic import CubicByMatrices

# A padding that is empty, or a side of one, at the example's size would be left out of the graph or taken as fixed. 13 and 17
# positions of 32 pixels are more than one window of 7, 8 or 12 positions, and no multiple of 7 or 12 at any stage.
_EXAMPLE = (401, 521)


RuntimeCall = Callable[[Tensor], Any]
"""An exported file in its runtime: maps `Exported.input` to `Exported.output`, a tensor or a sequence of two."""


class Deployed(nn.Module):
    """A network with the pre- and postprocessing that `Exported` states; `dtype` is that of its weights and arithmetic."""

    def __init__(self, network: PSPNet, spec: Exported, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.spec = spec
        self.dtype = dtype
        self.activation, self.classes = network.activation, network.classes
        self.stops_at_stride = network.config["upsampling"] is not None
        # contiguous, since torch.export takes weights in channels_last for slices of larger ones
        self.network = copy.deepcopy(network).cpu().eval().to(self.dtype).to(memory_format=torch.contiguous_format)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The input of `Exported` to its output."""
        x, size, input_scale = image, (image.shape[-2], image.shape[-1]), self.spec.preprocess.input_scale
        if self.spec.input == "uint8":
            if input_scale != 1:
                larger = [enlarged(side, input_scale) for side in size]
                x = F.interpolate(x.float(), size=larger, mode="bilinear")
            x = self.spec.preprocess.normalize(x)
        output = self.network(x.to(self.dtype))
        logits = (output[0] if isinstance(output, tuple) else output).float()
        if self.spec.output != "logits":
            logits = as_logits(logits, self.activation, self.classes, self.spec.multilabel)
        if self.stops_at_stride and (self.spec.output != "logits" or self.spec.input == "uint8"):
            logits = F.interpolate(logits, size=x.shape[-2:], mode="bilinear")
        if self.spec.input == "uint8" and input_scale != 1:
            logits = F.interpolate(logits, size=size, mode="bilinear")
        if self.spec.output == "logits":
            return logits
        ids = self.spec.decision(logits)
        found = ids.to(torch.uint8 if self.spec.classes <= 256 or self.spec.multilabel else torch.int32)
        if self.spec.output == "ids":
            return found
        return found, (logits.softmax(dim=1).gather(1, ids[:, None])[:, 0] * 255).round().to(torch.uint8)


def enlarged(side: int, factor: float) -> int:
    """side * factor in whole numbers, for sizes that are not known yet and factors with a denominator of up to 100.

    It is rounded as by `round`, but for halves, which go up: half to even would complicate the sizes of all later maps.
    """
    ratio = Fraction(factor).limit_denominator(100)
    return (2 * side * ratio.numerator + ratio.denominator) // (2 * ratio.denominator)


def example(spec: Exported, count: int, size: tuple[int, int]) -> Tensor:
    """Made-up images of a size, as the graph takes them."""
    generator = torch.Generator().manual_seed(size[0] * size[1])
    shape = (count, spec.channels, *size)
    if spec.input == "uint8":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(shape, generator=generator)


def trace(
    network: PSPNet, spec: Exported, dtype: torch.dtype = torch.float32, *, single: bool = False
) -> torch.export.ExportedProgram:
    """The program of the network in that precision.

    Args:
        network: See `Deployed`.
        spec: See `Deployed`.
        dtype: See `Deployed`.
        single: Take one image at a time; otherwise their number is free. Their sides are free if `spec` has no `image_size`.

    Raises:
        ValueError: If the network does something that no graph holds.
    """
    free: dict[int, Any] = {} if single else {0: torch.export.Dim.DYNAMIC}
    if spec.image_size is None:
        free |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    image = example(spec, 1 if single else 2, spec.image_size or _EXAMPLE)
    deployed = Deployed(network, spec, dtype)
    try:
        with torch.no_grad(), CubicByMatrices():
            deployed(image)  # fills caches that tracing would fill with its own tensors
            return torch.export.export(deployed, (image,), dynamic_shapes={"image": free}, strict=False)
    except Exception as error:  # whatever comes first in torch or timm
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"'{network.config['encoder_name']}' cannot be exported: {first}") from error
