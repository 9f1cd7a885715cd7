"""Programs of torch.export, in its .pt2 archives."""

from pathlib import Path

import torch

from ..runtimes.exported import KEY, Exported
from .graph import Run


def write(program: torch.export.ExportedProgram, spec: Exported, path: Path) -> None:
    """Write the program with its metadata, in the extra file that `KEY` names."""
    torch.export.save(program, path, extra_files={KEY: spec.to_json()})


def read(path: Path) -> Run:
    """The program of a file that this process wrote; reading one of another source can run code that is in it."""
    module = torch.export.load(path).module()
    return torch.no_grad()(module)
