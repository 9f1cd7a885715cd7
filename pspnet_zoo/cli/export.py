"""The command `pspnet-zoo export`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from .terminal import ModelArgument, err, refuse_idle, say


def export(
    model: ModelArgument,
    path: Annotated[
        Path | None,
        typer.Option(
            "-o", metavar="PATH", help="File ending in .onnx, .xml, .pt2 or .pte, or a folder for OpenVINO.", show_default=False
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a model repository for Triton and OpenVINO Model Server: uint8 to ids+confidence."),
    ] = None,
    format: Annotated[
        str | None, typer.Option(show_default="by PATH", help="onnx, openvino, program (torch.export) or executorch.")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32, float16, bfloat16 or int8.")] = "float32",
    input: Annotated[str, typer.Option(help="float32 for normalised images, uint8 for RGB of 0 to 255.")] = "float32",
    output: Annotated[str, typer.Option(help="logits, ids: the most probable class of every pixel, or ids+confidence.")] = "logits",
    size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="H W", help="Height and width of the images, for executorch only.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Images to calibrate int8 with; with --dataset, a dataset.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Layout of --calibration, whose train split is used.")] = None,
) -> None:
    """Export a model to a file that runs without this package.

    The file takes images of any size, for ExecuTorch of one, and is compared with the network before it is kept. It holds labels,
    colours and preprocessing; predict, evaluate and benchmark take it as a model.
    """
    from ..data.open import open_dataset
    from ..deployment.export import export
    from ..deployment.triton import write_repository

    if dataset and calibration is None:
        raise ValueError("--dataset is the layout of --calibration; give both, or neither")
    if (path is None) == (triton is None):
        raise ValueError("Say what to write: -o PATH, or --triton DIR")
    if triton is not None:
        reason = "is not for --triton, which writes ONNX with uint8 input, ids and confidence; leave it out"
        refuse_idle(reason, "format", "input", "output", "size", "calibration", "dataset")
    images = open_dataset(dataset, calibration, "train") if dataset and calibration else calibration
    start = time.monotonic()
    with err.status("loading the network") as status:

        def step(text: str) -> None:
            if text.startswith("quantizing"):
                status.stop()  # NNCF has bars of its own
            say(f"{time.monotonic() - start:5.0f} s  {text}", err)
            status.update(text)

        if triton is not None:
            path = write_repository(model, triton, precision=precision, step=step)  # type: ignore[arg-type]
            say(f"Wrote {path}")
            return
        export(
            model,
            path or Path(),  # one of the two was given
            format=format,  # type: ignore[arg-type]  # checked there
            precision=precision,  # type: ignore[arg-type]
            input=input,
            output=output,
            size=size,
            calibration=images,
            step=step,
        )
    say(f"Wrote {path}")
