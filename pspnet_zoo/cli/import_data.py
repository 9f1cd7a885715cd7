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
from .terminal import complain, err, message_of, progress_bar, refuse_idle, say

if TYPE_CHECKING:
    import numpy as np

    from ..data.importers.write import Written
    from ..data.rasters import Region

_SHEET = "contact_sheet.png"
_SHOWN = 12
_LONGEST = 2048  # pixels of a side that are read for the sheet
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
    from ..data.importers.recognise import read_source
    from ..data.importers.sample import check_name
    from ..data.importers.values import MaskOptions
    from ..data.importers.write import WriteOptions, check_output, resolve_classes, write_dataset
    from ..data.layouts.classes import read_class_file
    from ..data.layouts.splits import read_lists

    check_output(output)
    if background is not None:
        check_name(background, "--background")
    chosen = read_class_file(classes) if classes else None
    wanted = read_lists(lists) if lists else None
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
    has_sheet = _write_sheet(output, list(written.contents), folds)
    say(f"Wrote {output}" + f"; look at {output / _SHEET}, whether the classes are where they should be" * has_sheet)
    if written.problems:
        say(f"{len(written.problems)} problems were found; each has a line below, and the rest was imported")
    show_contents(written.contents, written.problems)
    if not has_sheet:
        raise typer.Exit(2)


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


def _write_sheet(output: Path, splits: list[str], folds: int) -> bool:
    """Write the contact sheet; if that fails, say why, since the dataset is there without it."""
    from ..storage.files import write_atomically

    try:
        write_atomically(output / _SHEET, _sheet(output, splits, folds))
    except (ValueError, OSError, MemoryError) as error:
        complain(f"{_SHEET} cannot be written, and the dataset is complete without it: {message_of(error)}")
        return False
    return True


def _sheet(output: Path, splits: list[str], folds: int) -> bytes:
    """The contact sheet: images evenly from all splits, of large ones the middle."""
    from ..data.images import ImageError
    from ..data.open import open_dataset
    from ..results.sheet import contact_sheet

    opened = [open_dataset("folder", output / name, "val") if folds else open_dataset("folder", output, name) for name in splits]
    places = [(dataset, index) for dataset in opened for index in range(len(dataset))]
    chosen = [places[i * len(places) // _SHOWN] for i in range(_SHOWN)] if len(places) > _SHOWN else places

    def items() -> "Iterator[tuple[str, np.ndarray, np.ndarray]]":
        for dataset, index in chosen:
            try:
                image, mask = _shown(dataset, index)
            except (ImageError, OSError, MemoryError) as error:
                say(f"Warning: an image is not on {_SHEET}: {error}", err)
                continue
            yield dataset.images[index].stem, image, mask

    buffer = io.BytesIO()
    contact_sheet(items(), opened[0].labels).save(buffer, "png")
    return buffer.getvalue()


def _shown(dataset: Any, index: int) -> "tuple[np.ndarray, np.ndarray]":
    """The middle of an image, (H, W, 3) uint8, of other bands the first between percentiles; and its mask, see `read_ids`."""
    from ..data.images import ImageError
    from ..data.rasters import open_raster
    from ..inference.draw import stretched

    size = dataset.window_size(index)
    if size is not None and max(size) > _LONGEST:
        image, mask = dataset.window(index, _middle(size))
        return image.permute(1, 2, 0).numpy(), mask.numpy()
    try:
        image, mask = dataset[index]
    except ImageError:
        with open_raster(dataset.images[index]) as raster:
            part = _middle(raster.shape[1:])
            return stretched(raster.read(part).transpose(1, 2, 0)), _mask_part(dataset, index, part)
    top, left, height, width = _middle(mask.shape[-2:])
    rows, columns = slice(top, top + height), slice(left, left + width)
    return image[:, rows, columns].permute(1, 2, 0).numpy(), mask[..., rows, columns].numpy()


def _mask_part(dataset: Any, index: int, part: "Region") -> "np.ndarray":
    from ..data.images import ImageError
    from ..data.rasters import open_raster

    try:
        mask = dataset.mask(index).numpy()
    except ImageError:  # it has more pixels than are read at once
        if dataset.labels.multilabel:
            raise
        with open_raster(dataset.masks[index]) as raster:
            return raster.read(part)[0]
    return mask[..., part.top : part.top + part.height, part.left : part.left + part.width]


def _middle(size: tuple[int, ...]) -> "Region":
    """The region in the middle of an image of a (height, width) that is shown."""
    from ..data.rasters import Region

    height, width = (min(side, _LONGEST) for side in size)
    return Region((size[0] - height) // 2, (size[1] - width) // 2, height, width)
