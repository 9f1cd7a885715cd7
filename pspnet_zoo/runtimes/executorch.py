"""Exported .pte files in ExecuTorch's runtime for Python."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .exported import KEY, Exported, ExportedRuntime, Precision, check_as_exported, foreign, unreadable
from .pool import Pool


class ExecutorchRuntime(ExportedRuntime):
    """An exported ExecuTorch file, which takes one image of one size at a time. Safe in threads.

    Args:
        path: The .pte file.
        device: "cpu" or None.
        precision: None, or the precision that the file has.
        compile: Only False.
        fast: None or False: ExecuTorch has no faster arithmetic to choose.
        threads: None; ExecuTorch chooses the number of threads.

    Raises:
        ImportError: If executorch is not installed.
        WeightsError: If the file is damaged, or was not made by `pspnet_zoo.export`.
        ValueError: If an option does not go with the runtime or the file.
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
        from executorch.runtime import Runtime

        for name, value in (("device", device and str(device) != "cpu"), ("fast", fast), ("threads", threads)):
            if value:
                raise ValueError(
                    f"{name} is not for '{path}': ExecuTorch runs on CPUs, with its own number of threads; leave it out"
                )
        runtime, data = Runtime.get(), path.read_bytes()
        try:
            program = runtime.load_program(data)
        except RuntimeError as error:
            raise unreadable(path, error) from None
        if KEY not in program.method_names:
            raise foreign(path)
        (text,) = _method(program, KEY).execute([])
        spec = Exported.from_json(text, path)
        check_as_exported(path, spec, precision, compile)
        # methods of one program share their memory
        methods = Pool(lambda: _method(runtime.load_program(data), "forward"))

        def run(x: Any) -> Any:
            with methods.lend() as method:
                found = [output.numpy().copy() for output in method.execute([torch.from_numpy(x)])]
            return found[0] if len(found) == 1 else found

        super().__init__(path, spec, run)

    def run(self, x: Tensor) -> Any:
        """The file's output for its input, image by image."""
        if len(x) == 1:
            return super().run(x)
        found = [super(ExecutorchRuntime, self).run(one[None]) for one in x]
        return [torch.cat(each) for each in zip(*found, strict=True)] if isinstance(found[0], list) else torch.cat(found)


def _method(program: Any, name: str) -> Any:
    method = program.load_method(name)
    if method is None:
        raise AssertionError(f"the program has no method '{name}'")
    return method
