"""Opens the model of a command for an inference protocol."""

from typing import TYPE_CHECKING, Any

from ..inference.protocols import PROTOCOLS

if TYPE_CHECKING:
    import torch

    from ..runtimes.open import Runtime


def open_for_protocol(model: str, protocol: str, *, device: "torch.device | str | None" = None, precision: Any = None) -> "Runtime":
    """The model in its runtime, an exported file on the device of its own.

    Raises:
        ValueError: If the protocol does not go with the model.
    """
    from ..inference.scores import check_protocol
    from ..model_source import ExportedFile, parse_weights
    from ..runtimes.open import open_runtime

    place = None if isinstance(parse_weights(model), ExportedFile) else device
    runtime = open_runtime(model, device=place, precision=precision)
    check_protocol(runtime, PROTOCOLS[protocol])
    return runtime
