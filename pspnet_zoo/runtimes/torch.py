"""Networks in PyTorch."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from ..meta import Labels, Preprocess
from ..models.pspnet import PSPNet
from ..storage.files import weights_digest
from .cpu.folding import Accelerated
from .cpu.grids import use_grids
from .exported import Precision
from .pool import Pool, check_threads
from .replica import fingerprint, replica


@dataclass
class _Runner:
    """A replica of the network for one thread, and the state of the network that it was made for."""

    state: list[Any] = field(default_factory=list)
    call: Callable[[Tensor], Any] | None = None


class TorchRuntime:
    """A network in PyTorch, run through replicas in evaluation mode that share its memory. Safe in threads.

    The network itself stays in its mode and on its device, and every later change of it counts at once. Only a network that is on
    another device than `device` has its weights copied: edits through `.data` cannot be noticed there and need `refresh`.

    Args:
        network: In any mode.
        device: Where to run; None for where the network is.
        precision: "bfloat16" for autocast; None, or "float32", for the arithmetic of the weights.
        compile: Compile by `torch.compile`: minutes for the first image of each kind of size, then some speed.
        fast: On a CPU in float32, fold batch norms and use Winograd's algorithm where it pays, see `Accelerated`; logits differ by
            rounding. None does so where it can, True requires it, False computes layer by layer.
        threads: Number of CPU threads, for all of PyTorch in this process; None leaves it as it is.

    Raises:
        ValueError: If an option is out of its range or does not go with the network, the device or another option.
    """

    def __init__(
        self,
        network: PSPNet,
        *,
        device: str | torch.device | None = None,
        precision: Precision | None = None,
        compile: bool = False,
        fast: bool | None = None,
        threads: int | None = None,
    ) -> None:
        if precision not in (None, "float32", "bfloat16"):
            raise ValueError(f"precision is {precision!r}; PyTorch runs 'float32' or 'bfloat16', exported files what they hold")
        check_threads(threads)
        self.network = network
        try:
            self.device = network.device if device is None else torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device is '{device}', which this PyTorch cannot use: {str(error).splitlines()[0]}") from None
        self.precision = precision
        self.compile, self.fast = compile, fast
        self._check()
        if threads is not None:
            torch.set_num_threads(threads)
        self._lock = Lock()
        self._moved: tuple[list[Any], PSPNet] | None = None
        self._refreshed = 0
        self._runners = Pool(_Runner)

    def _check(self) -> None:
        """Raise if the options do not go with the network as it is now."""
        if self.precision and self.dtype != torch.float32:
            raise ValueError(
                f"precision is {self.precision!r} and the weights are {self.dtype}; leave precision out, or use .float()"
            )
        if self.fast and not self._can_be_fast:
            raise ValueError(
                f"fast is True, which is for float32 weights on a CPU without compile; these are {self.dtype} on "
                f"'{self.device.type}'{', compiled' if self.compile else ''}. Leave fast out"
            )

    @property
    def _can_be_fast(self) -> bool:
        return self.device.type == "cpu" and self.dtype == torch.float32 and not self.compile

    def refresh(self) -> None:
        """Copy the network anew before the next call; only edits through `.data` of a network on another device need it."""
        self._refreshed += 1

    def __call__(self, x: Tensor, /) -> Any:
        """The network's output for x, (N, C, H, W)."""
        moves = self.network.device != self.device
        state = [self._refreshed, *fingerprint(self.network, values=moves)]
        half = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()
        with self._runners.lend() as runner, half, self._lock if self.compile else nullcontext():
            if runner.call is None or runner.state != state:
                self._check()
                runner.call, runner.state = self._callable(self._on_device(state) if moves else self.network), state
            return runner.call(x)

    def _on_device(self, state: list[Any]) -> PSPNet:
        """The network's copy on the runtime's device, one for all threads."""
        with self._lock if not self.compile else nullcontext():
            if self._moved is None or self._moved[0] != state:
                self._moved = state, replica(self.network).to(self.device).to(memory_format=torch.channels_last)
            return self._moved[1]

    def _callable(self, network: PSPNet) -> Callable[[Tensor], Any]:
        copy = replica(network)
        if self.compile:
            return torch.compile(copy, dynamic=True)
        if self.fast is not False and self._can_be_fast:
            use_grids(copy)
            return Accelerated(copy, winograd=self.precision != "bfloat16")
        return copy

    @property
    def preprocess(self) -> Preprocess:
        """The network's preprocessing of an image, as it is set now."""
        return self.network.preprocess

    @property
    def labels(self) -> Labels | None:
        """The network's labels, as they are set now."""
        return self.network.labels

    @property
    def multilabel(self) -> bool:
        """Whether a pixel may be of several classes."""
        return self.network.multilabel

    @property
    def threshold(self) -> float | tuple[float, ...] | None:
        """The network's threshold, as it is set now."""
        return self.network.threshold

    @property
    def provenance(self) -> dict[str, Any] | None:
        """Origin of the weights."""
        return self.network.provenance

    @property
    def classes(self) -> int:
        """Number of channels of the output."""
        return self.network.classes

    @property
    def activation(self) -> str | Callable[[], nn.Module] | None:
        """The activation after the logits."""
        return self.network.activation

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the largest image, in pixels; None for any."""
        return self.network.image_size

    @property
    def dtype(self) -> torch.dtype:
        """Type of the input."""
        return self.network.dtype

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file that `save_pretrained` writes."""
        return weights_digest(self.network.state_dict())
