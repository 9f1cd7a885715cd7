"""An exported OpenVINO network in OpenVINO's runtime."""

from pathlib import Path
from typing import Any

import torch

from ..model_source import OPENVINO_FILE
from .cpu.winograd_openvino import use_winograd
from .exported import KEY, Exported, ExportedRuntime, foreign, unreadable


class OpenVinoRuntime(ExportedRuntime):
    """An exported OpenVINO network on the CPU, in the precision that it was exported for; in float32 see `use_winograd`.

    Args:
        path: Of the .xml file, or the folder that holds model.xml.
        device: OpenVINO's own name of one, such as "GPU"; None for "CPU".
        threads: Of the CPU; None for as many as OpenVINO takes.

    Raises:
        ImportError: If openvino is not installed.
        WeightsError: If the files are damaged, or were not made by `pspnet_zoo.export`.
        ValueError: If the device is not to be had.
    """

    def __init__(self, path: Path, *, device: str | torch.device | None = None, threads: int | None = None) -> None:
        import openvino

        path = path / OPENVINO_FILE if path.is_dir() else path
        core = openvino.Core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise unreadable(path, error) from None
        if not model.has_rt_info(KEY):
            raise foreign(path)
        spec = Exported.from_json(model.get_rt_info(KEY).value, path)
        name = "CPU" if device is None else str(device).upper()
        if name.partition(".")[0] not in core.available_devices:
            raise ValueError(f"device is '{device}'; OpenVINO has {', '.join(core.available_devices)} here")
        # its default is bfloat16 where the processor has it: for bfloat16 files, and for what int8 leaves, but not for the others
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"} if spec.precision in ("float32", "float16") else {}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        if name == "CPU" and spec.precision == "float32":
            use_winograd(model)  # fewer bits would be too few for it
        compiled = core.compile_model(model, name, settings if name == "CPU" else {})
        super().__init__(path, spec, lambda x: compiled(x)[0])
