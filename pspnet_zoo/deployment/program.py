"""Programs of torch.export, in its .pt2 archives, and those that ExecuTorch makes of them, in .pte files."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..models.pspnet import PSPNet
from ..runtimes.executorch import ExecutorchRuntime
from ..runtimes.exported import KEY, UNSEALED, Exported, seal
from .graph import RuntimeCall, example
from .verify import TOLERANCE, verify

_SMALL = (((1, 1), 1), ((8, 40), 2), ((40, 5), 1), ((3, 3), 2))


def write_program(program: torch.export.ExportedProgram, spec: Exported, path: Path) -> None:
    """Write the program with its metadata, in the extra file that `KEY` names."""
    buffer = io.BytesIO()  # PyTorch's own writer ends the process on a full disk
    torch.export.save(program, buffer, extra_files={KEY: spec.to_json()})
    path.write_bytes(buffer.getbuffer())


def write_checked(program: torch.export.ExportedProgram, spec: Exported, path: Path, network: PSPNet) -> None:
    """Write the program once it gives what the network gives.

    Raises:
        ValueError: If it is wrong; the message says by how much.
    """
    if spec.image_size is None:
        _allow_small(program, spec, network)
    write_program(program, spec, path)
    write_program(program, replace(spec, check=verify(network, spec, read_program(path))), path)


def write_executorch(program: torch.export.ExportedProgram, spec: Exported, path: Path, network: PSPNet) -> None:
    """Write the program for ExecuTorch, with XNNPACK's kernels where it has them, and compare it with the network.

    Args:
        program: For one image of the size of `spec`.
        spec: The metadata.
        path: The .pte file.
        network: See `verify`.

    Raises:
        ValueError: If it is wrong, or ExecuTorch cannot hold it.
    """
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    size = spec.image_size or (0, 0)
    # its methods are fixed when the file is made, so the difference that is found afterwards is not in it
    spec = replace(spec, check={"sizes": ["x".join(map(str, (1, *size)))], "allowed": TOLERANCE}, file_sha256=UNSEALED)
    partitioner = XnnpackPartitioner(configs=[_within_six_axes(config) for config in ALL_PARTITIONER_CONFIGS])
    try:
        for parameter in program.parameters():
            parameter.requires_grad_(False)
        program = constant_prop_pass(program)  # the pyramid's matrices, and the parts of its weights
        edge = to_edge_transform_and_lower(program, partitioner=[partitioner], constant_methods={KEY: spec.to_json()})
        path.write_bytes(edge.to_executorch().buffer)
    except Exception as error:  # whatever comes first in its passes
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"'{network.config['encoder_name']}' cannot be exported for ExecuTorch: {first}") from error
    seal(path)
    verify(network, spec, ExecutorchRuntime(path).run, checks=((size, 1),))


def _within_six_axes(config: type) -> type:
    """A kind of XNNPACK's operators, for tensors that it can hold: it has at most six axes, and the pyramid's sums have more."""

    def check(self: Any, node: Any, program: Any) -> bool:
        values = [value for one in (node, *node.all_input_nodes) if (value := one.meta.get("val")) is not None]
        return all(getattr(value, "ndim", 0) <= 6 for value in values) and config.check_constraints(self, node, program)  # type: ignore[attr-defined]

    return type(config.__name__, (config,), {"check_constraints": check})


def read_program(path: Path) -> RuntimeCall:
    """The program of a file that this process wrote; reading one of another source can run code that is in it."""
    return torch.no_grad()(torch.export.load(path).module())


def _allow_small(program: Any, spec: Exported, network: PSPNet) -> None:
    """Let the program take images of a few pixels, if it is right there; else it stays as it is.

    torch.export takes a side of one position at any layer for a special case, and forbids every image that leads to one.
    """
    ranges, guards = dict(program.range_constraints), getattr(program, "_guards_code", [])
    image = next(node for node in program.graph.nodes if node.name == "image").meta["val"]
    inputs = [{"image": example(spec, count, size)} for size, count in _SMALL]
    for side in image.shape[2:]:
        symbol = side.node.expr
        program.range_constraints[symbol] = type(ranges[symbol])(1, ranges[symbol].upper)
    if guards:  # since torch 2.9
        program._guards_code = [guard for guard in guards if all(eval(guard, {"L": sizes}) for sizes in inputs)]
    try:
        verify(network, spec, torch.no_grad()(program.module()), checks=_SMALL)
    except ValueError:
        program.range_constraints.update(ranges)
        program._guards_code = guards
