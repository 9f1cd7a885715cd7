"""The command `pspnet-zoo rank`."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .terminal import DEFAULT_MODEL, ModelOption, cell, check_name, check_targets, complain, progress_bar, say

if TYPE_CHECKING:
    from rich.progress import Progress

_SHOWN = 12
_COLUMNS = ("rank", "path", "entropy", "margin", "disagreement", "novelty")


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

    Images that cannot be read are reported, the others are ranked, and the exit code is 2.
    """
    check_name(model)
    if output.suffix.lower() != ".csv":
        raise ValueError(f"'{output}' does not end in .csv, the format of the ranking")
    if labelled and by == "uncertainty":
        raise ValueError("--labelled is for novelty; leave it out, or use --by both")
    check_targets(output, output.with_suffix(".png"))
    import torch

    from ..evaluation.ranking import rank as order_of
    from ..inference.predictor import Predictor
    from ..results.sheet import contact_sheet
    from ..storage.files import write_atomically

    predictor, failures = Predictor(model), []
    with progress_bar() as bar:
        known = [features for _, _, features, _ in _read(predictor, labelled, recursive, by, bar, failures)] if labelled else []
        found = list(_read(predictor, folder, recursive, by, bar, failures))
    if not found:
        raise ValueError(f"No image in '{folder}' can be read")
    features = None if found[0][2] is None else torch.stack([each[2] for each in found])
    order = order_of([each[1] for each in found], features, torch.stack(known) if known else None, by=by)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for number, (index, novelty) in enumerate(order, 1):
        path, unsure, _, _ = found[index]
        values = (unsure.entropy, unsure.margin, unsure.disagreement, novelty)
        table.writerow([number, path.as_posix(), *("" if v is None else f"{v:.6f}" for v in values)])
    write_atomically(output, text.getvalue().encode())
    first = [found[index] for index, _ in order[:_SHOWN]]
    items = ((path.name, predictor(path).image, mask) for path, _, _, mask in first)
    buffer = io.BytesIO()
    contact_sheet(items, predictor.labels).save(buffer, "png")
    write_atomically(output.with_suffix(".png"), buffer.getvalue())
    say(f"Ranked {len(found)} images: {output}; the first {len(first)} are in {output.with_suffix('.png')}")
    if failures:
        raise typer.Exit(2)


def _read(
    predictor: Any, folder: Path, recursive: bool, by: str, bar: "Progress", failures: list[Exception]
) -> Iterator[tuple[Path, Any, Any, Any]]:
    """Path, uncertainty, features and mask of each image that can be read."""
    import torch

    from ..data.find import find_files
    from ..evaluation.ranking import features_of, uncertainty_of
    from ..models.pspnet import PSPNet
    from ..streams.pipeline import in_order

    def fail(error: Exception) -> None:
        complain(error)
        failures.append(error)

    def read(path: Path) -> tuple[Path, Any]:
        try:
            return path, predictor.tensor([predictor.read(path)])[0]
        except (ValueError, OSError) as error:
            return path, error

    files = [file.path for file in find_files(folder, recursive=recursive, without=None, on_error=fail)]
    network = predictor.model if isinstance(predictor.model, PSPNet) and by != "uncertainty" else None
    task = bar.add_task(cell(f"reading {folder.name}"), total=len(files))
    for path, image in in_order(read, files):
        if isinstance(image, torch.Tensor):
            unsure, ids = uncertainty_of(predictor.runtime, image)
            features = features_of(network, image) if network is not None else None
            yield path, unsure, features, ids.cpu().to(torch.uint8).numpy()
        else:
            fail(image)
        bar.advance(task)
