"""A network in PyTorch as a runtime."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..meta import Labels, Preprocess
from ..models.pspnet import PSPNet
from ..storage.files import weights_digest
from .cpu.folding import Accelerated


class TorchRuntime:
    """A network in PyTorch, which stays as it is.

    Args:
        network: In evaluation mode.
        device: Where to run it; it is moved there. None leaves it where it is.
        precision: "float32", or "bfloat16" for autocast.
        compile: Compile it by `torch.compile`: minutes at the first image of a kind of size, for some speed after.
        fast: On a CPU, fold batch norms and take Winograd's algorithm where it pays, see `Accelerated`. Logits differ by rounding.
        threads: Of the CPU, for all of PyTorch in this process; None leaves them.

    Raises:
        ValueError: If the precision is unknown.
    """

    def __init__(
        self,
        network: PSPNet,
        *,
        device: str | torch.device | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        compile: bool = False,
        fast: bool = True,
        threads: int | None = None,
    ) -> None:
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {precision!r}; PyTorch runs 'float32' or 'bfloat16', exported files what they hold")
        if threads is not None:
            torch.set_num_threads(threads)
        self.network = network if device is None else network.to(device)
        self.precision = precision
        self._call: Callable[[Tensor], Any] = network
        if compile:
            self._call = torch.compile(network, dynamic=True)
        elif fast and self.device.type == "cpu" and self.dtype == torch.float32:
            self._call = Accelerated(network, winograd=precision == "float32")

    @property
    def preprocess(self) -> Preprocess:
        """What the network expects of an image, as it is set now."""
        return self.network.preprocess

    @property
    def labels(self) -> Labels | None:
        """What the classes are, as they are set now."""
        return self.network.labels

    @property
    def provenance(self) -> dict[str, Any] | None:
        """Where the weights come from."""
        return self.network.provenance

    @property
    def classes(self) -> int:
        """Channels of the output."""
        return self.network.classes

    @property
    def activation(self) -> str | Callable[[], nn.Module] | None:
        """What the output goes through."""
        return self.network.activation

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the largest image, in pixels; None for any."""
        return self.network.image_size

    @property
    def device(self) -> torch.device:
        """Where the input has to be."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the input."""
        return self.network.dtype

    @property
    def weights_sha256(self) -> str:
        """Of the file that `save_pretrained` writes."""
        return weights_digest(self.network.state_dict())

    def __call__(self, x: Tensor, /) -> Any:
        """As the network."""
        half = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()
        with half:
            return self._call(x)
