"""An exported ONNX file in ONNX Runtime."""

from pathlib import Path

import torch

from .exported import KEY, Exported, ExportedRuntime, foreign, unreadable


class OnnxRuntime(ExportedRuntime):
    """An exported ONNX file in ONNX Runtime.

    Args:
        path: Of the file.
        device: "cuda" needs onnxruntime-gpu; None takes it where it works, else the CPU.
        threads: Of the CPU; None for as many as there are cores.

    Raises:
        ImportError: If onnxruntime is not installed.
        WeightsError: If the file is damaged, or was not made by `pspnet_zoo.export`.
        ValueError: If the device is not to be had.
    """

    def __init__(self, path: Path, *, device: str | torch.device | None = None, threads: int | None = None) -> None:
        import onnxruntime

        providers = _providers(None if device is None else torch.device(device).type, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; it warns of graphs that are right
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # its own classes, without a common one
            raise unreadable(path, error) from None
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise foreign(path)
        name = session.get_inputs()[0].name
        super().__init__(path, Exported.from_json(text, path), lambda x: session.run(None, {name: x})[0])


def _providers(device: str | None, available: list[str]) -> list[str]:
    """ONNX Runtime's names of what is to run the network, the first that can."""
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device is '{device}'; ONNX Runtime is used on 'cpu' or 'cuda'")
    cuda = "CUDAExecutionProvider"
    if device == "cuda" and cuda not in available:
        raise ValueError(f"device is 'cuda', but this ONNX Runtime has {', '.join(available)}; install onnxruntime-gpu")
    return [p for p in (cuda, "CPUExecutionProvider") if p in available and not (p == cuda and device == "cpu")]
