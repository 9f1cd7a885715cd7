"""The command `pspnet-zoo data import`."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .contents import show_contents
from .terminal import progress_bar, refuse_idle, say

if TYPE_CHECKING:
    import numpy as np

    from ..data.importers.write import Written

_SHEET = "contact_sheet.png"
_SHOWN = 12
_CLASSES, _SPLITS = "Classes", "Splits"


def import_data(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder or file, or hf:OWNER/NAME for a dataset of the Hub.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the dataset, new or empty.", show_default=False)],
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            show_default="told by the files",
            help="coco, yolo, labelme, cvat, labelstudio, voc, masks (or colors, binary, ids, instances), npz, parquet or vectors.",
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if they are not in the source.")] = None,
    masks: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Where an image's masks are in the source: 'labels/{stem}_mask.png'.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Make hard links to the images instead of copies.")] = False,
    classes: Annotated[
        Path | None,
        typer.Option(help="classes.json that merges, renames, ignores and drops classes of the source.", rich_help_panel=_CLASSES),
    ] = None,
    colors: Annotated[
        Path | None, typer.Option(help="Table of the masks' colors: R G B NAME in each line.", rich_help_panel=_CLASSES)
    ] = None,
    names: Annotated[
        str | None, typer.Option(help="Names of the masks' values, in ascending order: cell,nucleus.", rich_help_panel=_CLASSES)
    ] = None,
    class_field: Annotated[
        str | None,
        typer.Option(
            show_default="the first of usual names", help="Field of vectors that holds the class.", rich_help_panel=_CLASSES
        ),
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="Name of the class of what nobody drew.", rich_help_panel=_CLASSES, show_default="background")
    ] = None,
    ignore_undrawn: Annotated[
        bool, typer.Option("--ignore-undrawn", help="Ignore what nobody drew instead.", rich_help_panel=_CLASSES)
    ] = False,
    priority: Annotated[
        str,
        typer.Option(
            help="Which object is on top of others: last or first of the file, smallest, or classes, uppermost first.",
            rich_help_panel=_CLASSES,
        ),
    ] = "last",
    multilabel: Annotated[
        bool,
        typer.Option("--multilabel", help="Keep all objects that overlap: several classes a pixel.", rich_help_panel=_CLASSES),
    ] = False,
    split: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="TRAIN VAL", help="Parts of the images, such as 0.8 0.2.", rich_help_panel=_SPLITS),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN", help="Regular expression: names with the same match stay together.", rich_help_panel=_SPLITS
        ),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(help="Folder of train.txt, val.txt, ...: a name of an image in each line.", rich_help_panel=_SPLITS),
    ] = None,
    folds: Annotated[int, typer.Option(min=0, help="Write so many datasets for cross-validation.", rich_help_panel=_SPLITS)] = 0,
) -> None:
    """Import labels of another tool or layout as a dataset to train on.

    It prints what was guessed and what `data check` prints, and writes contact_sheet.png: look at it. What is wrong has a line
    each, the rest is imported, and the exit code is then 2.
    """
    from ..data.importers.masks import list_of_stems
    from ..data.importers.recognise import read_source
    from ..data.importers.sample import check_name
    from ..data.importers.values import MaskOptions
    from ..data.importers.write import WriteOptions, check_output, resolve_classes, write_dataset
    from ..data.layouts.classes import read_class_file
    from ..storage.files import write_atomically

    check_output(output)
    if background is not None:
        check_name(background, "--background")
    chosen = read_class_file(classes) if classes else None
    wanted = {path.stem: list_of_stems(path) for path in sorted(lists.glob("*.txt"))} if lists else None
    if lists and not wanted:
        raise FileNotFoundError(f"No lists such as train.txt and val.txt in '{lists}'")
    if multilabel:
        refuse_idle("decides which of several objects a pixel is of, and --multilabel keeps all; leave one of them out", "priority")
    options = WriteOptions(priority, link, split, group_by, wanted, multilabel, folds)
    stated = MaskOptions(masks, colors, tuple(name.strip() for name in names.split(",")) if names else (), field=class_field)
    with progress_bar() as bar, _local(source) as root:
        task = bar.add_task("importing", total=None)
        read = read_source(root, kind, images=images, masks=stated)
        made, table = resolve_classes(read, chosen, background, ignore_undrawn, multilabel)
        written = write_dataset(
            read, output, made, table, options, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for note in written.notes:
        say(note)
    _say_overlaps(written, priority)
    write_atomically(output / _SHEET, _sheet(output, list(written.contents), folds))
    say(f"Wrote {output}; look at {output / _SHEET}, whether the classes are where they should be")
    if written.problems:
        say(f"{len(written.problems)} problems were found; each has a line below, and the rest was imported")
    show_contents(written.contents, written.problems)


@contextmanager
def _local(source: str) -> Iterator[Path]:
    """The folder or file of a source; a dataset of the Hub is downloaded, its Parquet files only."""
    if not source.startswith("hf:"):
        yield Path(source)
        return
    from huggingface_hub import snapshot_download

    from ..storage.hub_errors import explained

    with explained(source, None):
        cached = Path(snapshot_download(source.removeprefix("hf:"), repo_type="dataset", allow_patterns="*.parquet"))
    with TemporaryDirectory() as folder:  # files of the cache are links that lead out of their folder, which are refused
        for file in cached.rglob("*.parquet"):
            target = Path(folder, file.relative_to(cached))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        yield Path(folder)


def _say_overlaps(written: "Written", priority: str) -> None:
    if lost := written.lost:
        say(f"Where objects of several classes overlap, --priority {priority} decides. Pixels that were covered:")
        for name, count in lost.most_common():
            drawn = count + sum(int(c.pixels[c.labels.names.index(name)]) for c in written.contents.values())
            say(f"  {name}: {count:,} of {drawn:,}, {count / drawn:.1%}")


def _sheet(output: Path, splits: list[str], folds: int) -> bytes:
    """The contact sheet: images evenly from all splits."""
    from ..data.open import open_dataset
    from ..results.sheet import contact_sheet

    opened = [open_dataset("folder", output / name, "val") if folds else open_dataset("folder", output, name) for name in splits]
    places = [(dataset, index) for dataset in opened for index in range(len(dataset))]
    chosen = [places[i * len(places) // _SHOWN] for i in range(_SHOWN)] if len(places) > _SHOWN else places
    items = ((dataset.images[i].stem, *_shown(dataset, i)) for dataset, i in chosen)
    buffer = io.BytesIO()
    contact_sheet(items, opened[0].labels).save(buffer, "png")
    return buffer.getvalue()


def _shown(dataset: Any, index: int) -> "tuple[np.ndarray, np.ndarray]":
    """(H, W, 3) uint8 and (H, W): the image, or its first bands between percentiles, and the class ids."""
    from ..data.images import ImageError
    from ..data.rasters import open_raster
    from ..inference.draw import stretched

    try:
        image, mask = dataset[index]
        return image.permute(1, 2, 0).numpy(), mask.numpy()
    except ImageError:
        with open_raster(dataset.images[index]) as raster:
            return stretched(raster.read().transpose(1, 2, 0)), dataset.mask(index).numpy()
