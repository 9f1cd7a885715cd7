"""Exported ONNX files in ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .exported import KEY, Exported, ExportedRuntime, Precision, check_as_exported, foreign, unreadable
from .pool import check_threads


class OnnxRuntime(ExportedRuntime):
    """An exported ONNX file in ONNX Runtime. Safe in threads.

    Args:
        path: The .onnx file.
        device: "cpu" or "cuda" (needs onnxruntime-gpu); None for CUDA where ONNX Runtime has it, else the CPU.
        precision: None, or the precision that the file has.
        compile: Only False.
        fast: None or False: ONNX Runtime has no faster arithmetic to choose.
        threads: Number of CPU threads; None for one a core.

    Raises:
        ImportError: If onnxruntime is not installed.
        WeightsError: If the file is damaged, or was not made by `pspnet_zoo.export`.
        ValueError: If the device is missing or an option does not go with the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str | torch.device | None = None,
        precision: Precision | None = None,
        compile: bool = False,
        fast: bool | None = None,
        threads: int | None = None,
    ) -> None:
        import onnxruntime

        check_threads(threads)
        if fast:
            raise ValueError("fast is True, and ONNX Runtime has no faster arithmetic to choose; leave fast out")
        try:
            place = None if device is None else torch.device(device)
        except RuntimeError:
            raise ValueError(f"device is '{device}'; {_DEVICES}") from None
        providers = _providers(place, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; it warns of graphs that are right
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # its own classes, without a common one
            raise unreadable(path, error) from None
        if place is not None and place.type == "cuda" and session.get_providers()[0] != _CUDA:
            raise ValueError(f"device is '{device}', but ONNX Runtime's CUDA does not start here; use device='cpu'")
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise foreign(path)
        spec = Exported.from_json(text, path)
        check_as_exported(path, spec, precision, compile)
        name = session.get_inputs()[0].name
        super().__init__(path, spec, lambda x: _single(session.run(None, {name: x})))


def _single(outputs: Sequence[Any]) -> Any:
    return outputs[0] if len(outputs) == 1 else outputs


_CUDA = "CUDAExecutionProvider"
_DEVICES = "ONNX Runtime is used on 'cpu' or 'cuda'"


def _providers(device: torch.device | None, available: list[str]) -> list[str | tuple[str, dict[str, int]]]:
    """ONNX Runtime's names of what is to run the network, the best first."""
    if device is not None and device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is '{device}'; {_DEVICES}")
    if device is not None and device.type == "cuda" and _CUDA not in available:
        raise ValueError(f"device is '{device}', but this ONNX Runtime has {', '.join(available)}; install onnxruntime-gpu")
    if _CUDA not in available or (device is not None and device.type == "cpu"):
        return ["CPUExecutionProvider"]
    return [(_CUDA, {"device_id": device.index or 0 if device else 0}), "CPUExecutionProvider"]
