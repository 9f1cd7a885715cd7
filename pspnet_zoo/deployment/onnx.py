"""ONNX files."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from ..runtimes.exported import KEY, Exported

_LIMIT = 1_900_000_000  # bytes of weights; a protobuf of more than 2 GB cannot be read


def write_onnx(program: torch.export.ExportedProgram, spec: Exported, path: Path) -> None:
    """Write the program as one file, or with NAME.onnx.data beside it if it would be too large; its input is "image"."""
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        model = torch.onnx.export(program, dynamo=True, input_names=["image"], output_names=spec.output.split("+"), verbose=False)
    if model is None:
        raise AssertionError("the dynamo exporter gives a program")
    _name_sides(model.model)
    model.save(str(path), external_data=size > _LIMIT)


def describe(path: Path, spec: Exported) -> None:
    """Write the metadata into the file; weights beside it stay as they are."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=spec.to_json())
    model.producer_name = "pspnet_zoo"
    onnx.save(model, path)
    onnx.checker.check_model(path)


def _name_sides(model: Any) -> None:
    """Give the free sizes of the graph names that say what they are."""
    import onnx_ir

    names = {}
    for axis, dim in zip(("batch", "channels", "height", "width"), model.graph.inputs[0].shape, strict=True):
        if isinstance(dim, onnx_ir.SymbolicDim) and dim.value:
            names[dim.value] = axis
    pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names) or "(?!)")
    for value in {v for node in model.graph for v in node.outputs} | {*model.graph.inputs}:
        if value.shape is not None:
            value.shape = onnx_ir.Shape(
                onnx_ir.SymbolicDim(pattern.sub(lambda m: names[m[0]], d.value))
                if isinstance(d, onnx_ir.SymbolicDim) and d.value
                else d
                for d in value.shape
            )
