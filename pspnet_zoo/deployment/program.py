"""Programs of torch.export, in its .pt2 archives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..models.pspnet import PSPNet
from ..runtimes.exported import KEY, Exported
from .graph import RuntimeCall, example
from .verify import verify

_SMALL = (((1, 1), 1), ((8, 40), 2), ((40, 5), 1), ((3, 3), 2))


def write_program(program: torch.export.ExportedProgram, spec: Exported, path: Path) -> None:
    """Write the program with its metadata, in the extra file that `KEY` names."""
    torch.export.save(program, path, extra_files={KEY: spec.to_json()})


def write_checked(program: torch.export.ExportedProgram, spec: Exported, path: Path, network: PSPNet) -> None:
    """Write the program once it gives what the network gives.

    Raises:
        ValueError: If it is wrong; the message says by how much.
    """
    if spec.image_size is None:
        _allow_small(program, spec, network)
    write_program(program, spec, path)
    write_program(program, replace(spec, check=verify(network, spec, read_program(path))), path)


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
