"""The command `pspnet-zoo rank`."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .terminal import DEFAULT_MODEL, ModelOption, cell, check_name, check_targets, complain, printable, progress_bar, say

if TYPE_CHECKING:
    from rich.progress import Progress

_SHOWN = 12
_COLUMNS = ("rank", "path", "entropy", "margin", "disagreement", "novelty")
_MADE_BY = "pspnet-zoo rank"  # in a contact sheet, so that it is told from an image of the same name


def rank(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images without labels.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table, a row an image: .csv; a contact sheet is beside it.")],
    model: ModelOption = DEFAULT_MODEL,
    labelled: Annotated[
        Path | None, typer.Option(help="Folder of the images that have labels already: what is like them is less new.")
    ] = None,
    by: Annotated[
        Literal["both", "uncertainty", "novelty"],
        typer.Option(help="What counts: how unsure the network is, how unlike the other images one is, or both."),
    ] = "both",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also take images in the folders below.")] = False,
) -> None:
    """Rank images by which to label first.

    Images that cannot be read or segmented are reported, the others are ranked, and the exit code is 2.
    """
    check_name(model)
    if output.suffix.lower() != ".csv":
        raise ValueError(f"'{output}' does not end in .csv, the format of the ranking")
    if labelled and by == "uncertainty":
        raise ValueError("--labelled is for novelty; leave it out, or use --by both")
    sheet = output.with_suffix(".png")
    check_targets(output, sheet)
    _check_sheet(sheet, output)
    import torch
    from PIL.PngImagePlugin import PngInfo

    from ..evaluation.ranking import check_measurable
    from ..evaluation.ranking import rank as order_of
    from ..inference.predictor import Predictor
    from ..models.pspnet import PSPNet
    from ..results.sheet import contact_sheet
    from ..storage.files import write_atomically

    predictor, failures = Predictor(model), []
    if by != "novelty":
        check_measurable(predictor.runtime)
    if by != "uncertainty" and not isinstance(predictor.model, PSPNet):
        order_of([], None, by=by)  # refuses, before any image is read
    with progress_bar() as bar:
        known = [features for _, _, features in _read(predictor, labelled, recursive, by, bar, failures, sheet)] if labelled else []
        found = list(_read(predictor, folder, recursive, by, bar, failures, sheet))
    if not found:
        raise ValueError(f"No image in '{folder}' can be ranked")
    features = None if found[0][2] is None else torch.stack([each[2] for each in found])
    order = order_of([each[1] for each in found], features, torch.stack(known) if known else None, by=by)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for number, (index, novelty) in enumerate(order, 1):
        path, unsure, _ = found[index]
        values = (unsure.entropy, unsure.margin, unsure.disagreement, novelty)
        table.writerow([number, path.as_posix(), *("" if v is None else f"{v:.6f}" for v in values)])
    write_atomically(output, text.getvalue().encode(errors="surrogateescape"))  # names of files need not be UTF-8
    first = [found[index][0] for index, _ in order[:_SHOWN]]
    items = ((printable(path.name), prediction.image, prediction.mask) for path in first for prediction in [predictor(path)])
    buffer, note = io.BytesIO(), PngInfo()
    note.add_text("Software", _MADE_BY)
    contact_sheet(items, predictor.labels).save(buffer, "png", pnginfo=note)
    write_atomically(sheet, buffer.getvalue())
    say(f"Ranked {len(found)} images: {output}; the first {len(first)} are in {sheet}")
    if failures:
        raise typer.Exit(2)


def _check_sheet(sheet: Path, output: Path) -> None:
    """Refuse to replace an image that is not the contact sheet of an earlier ranking."""
    if not sheet.is_file():
        return
    with sheet.open("rb") as file:
        head = file.read(256)  # Pillow writes texts before the pixels
    if _MADE_BY.encode() not in head:
        raise ValueError(
            f"The contact sheet beside '{output}' would replace '{sheet}', which 'pspnet-zoo rank' did not write. Give --output "
            "another name or folder"
        )


def _read(
    predictor: Any, folder: Path, recursive: bool, by: str, bar: "Progress", failures: list[Exception], sheet: Path
) -> Iterator[tuple[Path, Any, Any]]:
    """Path, uncertainty and features of each image but the sheet that can be read and segmented."""
    import torch

    from ..data.find import find_files
    from ..evaluation.ranking import features_of, uncertainty_of
    from ..models.pspnet import PSPNet
    from ..streams.pipeline import in_order, is_out_of_memory

    def fail(error: Exception) -> None:
        complain(error)
        failures.append(error)

    def read(path: Path) -> tuple[Path, Any]:
        try:
            return path, predictor.tensor([predictor.read(path)])[0]
        except (ValueError, OSError, MemoryError) as error:
            return path, error

    def measure(image: torch.Tensor) -> tuple[Any, Any] | Exception:
        try:
            unsure, _ = uncertainty_of(predictor.runtime, image)
            return unsure, features_of(network, image) if network is not None else None
        except (FloatingPointError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            return error

    own, listed = os.path.realpath(sheet), find_files(folder, recursive=recursive, on_error=fail)
    files = [file.path for file in listed if os.path.realpath(file.path) != own]
    network = predictor.model if isinstance(predictor.model, PSPNet) and by != "uncertainty" else None
    task = bar.add_task(cell(f"reading {folder.name}"), total=len(files))
    for path, image in in_order(read, files):
        found = measure(image) if isinstance(image, torch.Tensor) else image
        if isinstance(found, tuple):
            yield path, *found
        elif isinstance(found, ValueError | OSError):
            fail(found)  # names the file
        elif isinstance(found, FloatingPointError):
            fail(ValueError(f"'{path}' cannot be ranked: {found}"))
        else:
            fail(ValueError(f"'{path}' needs more memory than there is; shrink it, or cut it into parts"))
        bar.advance(task)
