"""Exported OpenVINO networks in OpenVINO's runtime."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..model_source import OPENVINO_FILE
from .cpu.winograd_openvino import use_winograd
from .exported import KEY, Exported, ExportedRuntime, Precision, check_as_exported, foreign, unreadable
from .pool import Pool, check_threads

_MOST_STREAMS = 8  # each keeps feature maps of its own


@cache
def openvino_core() -> Any:
    """The `openvino.Core` of this process, with its CPU plugin.

    A plugin gives the thread that loads it a stack for signal handlers, and takes it away when it is freed (seen in OpenVINO
    2026.4): after the only plugin, or two that are freed in the order of their making, the next Ctrl-C or end of a DataLoader's
    worker is a segmentation fault. So there is one, which stays; those of others come and go above it.

    Raises:
        ImportError: If openvino is not installed.
    """
    import openvino

    core = openvino.Core()
    core.get_versions("CPU")  # loads the plugin
    return core


class OpenVinoRuntime(ExportedRuntime):
    """An exported OpenVINO network, in the precision that it was exported in, but float16 in float32 on CPUs. Safe in threads.

    Args:
        path: The .xml file, or the folder that holds model.xml.
        device: OpenVINO's name of a device, such as "GPU"; None for "CPU".
        precision: None, or the precision that the file has.
        compile: Only False.
        fast: On a CPU in float32, run wide 3x3 convolutions by Winograd's algorithm, see `use_winograd`; logits differ by rounding.
            None does so where it can, True requires it, False computes every convolution directly.
        threads: Number of CPU threads for an image; images of several threads run side by side on the cores that are left. None has
            one image at a time on all cores.

    Raises:
        ImportError: If openvino is not installed.
        WeightsError: If the files are damaged, or were not made by `pspnet_zoo.export`.
        ValueError: If the device is missing or an option does not go with it or the file.
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
        core = openvino_core()
        check_threads(threads)
        path = path / OPENVINO_FILE if path.is_dir() else path
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise unreadable(path, error) from None
        if not model.has_rt_info(KEY):
            raise foreign(path)
        spec = Exported.from_json(model.get_rt_info(KEY).value, path)
        check_as_exported(path, spec, precision, compile)
        name = "CPU" if device is None else str(device).upper()
        if name.partition(".")[0] not in core.available_devices:
            raise ValueError(f"device is '{device}'; OpenVINO has {', '.join(core.available_devices)} here")
        if name != "CPU" and threads is not None:
            raise ValueError(f"threads is {threads}, which is for device 'CPU', not '{device}'; leave threads out")
        can_be_fast = name == "CPU" and spec.precision == "float32"  # fewer bits would be too few for Winograd's algorithm
        if fast and not can_be_fast:
            raise ValueError(f"fast is True, which is for float32 on 'CPU'; this is {spec.precision} on '{name}'. Leave fast out")
        # its default is bfloat16 where the processor has it: for bfloat16 files, and for what int8 leaves, but not for the others
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"} if spec.precision in ("float32", "float16") else {}
        if threads is not None:
            streams = min(max((os.cpu_count() or 1) // threads, 1), _MOST_STREAMS)
            settings |= {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams * threads}
        if can_be_fast and fast is not False:
            use_winograd(model)
        compiled = core.compile_model(model, name, settings if name == "CPU" else {})
        requests = Pool(compiled.create_infer_request)

        def run(x: Any) -> Any:
            with requests.lend() as request:
                found = request.infer(x, share_inputs=True)
                return found[0] if len(found) == 1 else [found[i] for i in range(len(found))]

        super().__init__(path, spec, run)
