"""Images and masks inside of files: NumPy's .npz, and Parquet as Hugging Face datasets write it."""

import functools
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...extras import missing_extra
from ...storage.npz import npz_headers
from .masks import find_table
from .sample import Sample, Source, SourceError, contained, split_of, walk
from .values import MaskArray, MaskImage, MaskOptions, interpret

_IMAGES = ("image", "images", "img", "x", "pixel_values", "jpg", "png")
_MASKS = ("mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentation_mask", "y", "seg")
_LARGEST = 1 << 32  # bytes of an array, or of a group of rows
_MOST = 10_000_000  # images of a file, each of which takes memory before it is read


def read_npz(root: Path, options: MaskOptions) -> Source:
    """Read .npz files: one with an image and a mask each, or with arrays of many, (N, H, W, C) and (N, H, W).

    Images are uint8 or uint16, with 1, 3 or 4 channels; they become PNG files, since there are no files to copy.

    Raises:
        SourceError: If no file can be read.
    """
    source, samples, masks = Source("npz"), [], []
    files = [root] if root.is_file() else list(walk(root, [".npz"]))
    folder = root if root.is_dir() else root.parent
    for file in files:
        try:
            shapes = _npz_shapes(contained(folder, file))
            image_key, mask_key = _keys(shapes, f"'{file}'")
            count = _npz_count(shapes[image_key], shapes[mask_key], f"'{file}'")
        except SourceError as error:
            source.problems.append(str(error))
            continue
        stem = file.relative_to(folder).with_suffix("").as_posix()
        for index in range(count or 1):
            place = index if count else None
            where = f"'{file}'" if place is None else f"'{file}', mask {index}"
            name = stem if place is None else f"{stem}_{index:0{len(str(count))}}"
            samples.append(Sample(name, partial(_npz_png, file, image_key, place), split=split_of(stem)))
            masks.append(MaskArray(partial(_npz_item, file, mask_key, place), where))
    return _with_masks(source, samples, masks, folder, options)


def _with_masks(source: Source, samples: list[Sample], masks: list[Any], folder: Path, options: MaskOptions) -> Source:
    if not samples:
        raise SourceError(source.problems[0] if source.problems else f"No images in '{folder}'")
    container = source.format
    readers = interpret(source, masks, find_table(folder, options.colors), options)
    source.format = f"{container}, {source.format}"
    source.samples = [Sample(s.name, s.image, values=r, split=s.split) for s, r in zip(samples, readers, strict=True) if r]
    return source


def _keys(names: Any, where: str) -> tuple[str, str]:
    """The names of images and of masks among others."""
    lower = {name.lower(): name for name in names}
    image = next((lower[n] for n in _IMAGES if n in lower), None)
    mask = next((lower[n] for n in _MASKS if n in lower), None)
    if image is None or mask is None:
        raise SourceError(f"{where} has {', '.join(map(repr, names))}; it must have an 'image' and a 'mask', or names like those")
    return image, mask


def _npz_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays, before any is read."""
    try:
        headers = npz_headers(file)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever comes first
        raise SourceError(f"'{file}' is not an .npz file that can be read: {error}") from None
    for name, (_, size) in headers.items():
        if size > _LARGEST:
            raise SourceError(f"'{file}': '{name}.npy' has more than {_LARGEST:,} bytes, the most that are read")
    return {name: shape for name, (shape, _) in headers.items()}


def _npz_count(image: Sequence[int], mask: Sequence[int], where: str) -> int | None:
    """The number of images in the arrays; None if they are of one image."""
    if 0 in (*image, *mask):
        raise SourceError(f"{where} has the shapes {tuple(image)} and {tuple(mask)}, in which there is no pixel")
    if (len(image) == 4 and len(mask) in (3, 4)) or (len(image) == len(mask) == 3 and mask[-1] > 4):
        if image[0] != mask[0]:
            raise SourceError(f"{where} has {image[0]} images and {mask[0]} masks")
        if image[0] > _MOST:
            raise SourceError(f"{where} has {image[0]:,} images; at most {_MOST:,} are read")
        return image[0]
    if len(image) in (2, 3) and len(mask) in (2, 3):
        return None
    raise SourceError(
        f"{where} has the shapes {tuple(image)} and {tuple(mask)}; they must be (N, H, W, C) and (N, H, W), or of one image"
    )


@functools.lru_cache(maxsize=2)
def _npz_array(file: Path, key: str, _time: int) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays[key]
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever comes first
        raise SourceError(f"'{file}' cannot be read: {error}") from None


def _npz_item(file: Path, key: str, place: int | None) -> np.ndarray:
    array = _npz_array(file, key, file.stat().st_mtime_ns)
    return array if place is None else array[place]


def _npz_png(file: Path, key: str, place: int | None) -> bytes:
    pixels = np.squeeze(_npz_item(file, key, place))
    if pixels.dtype not in (np.uint8, np.uint16) or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise SourceError(
            f"'{file}': an image is {pixels.dtype} {pixels.shape}; it must be uint8 or uint16, (H, W) or (H, W, 3 or 4)"
        )
    if pixels.ndim == 3 and pixels.dtype == np.uint16:
        raise SourceError(f"'{file}': images of several channels must be uint8; divide by 257 and round")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def read_parquet(root: Path, options: MaskOptions) -> Source:
    """Read Parquet files with a column of images and one of masks, as `datasets` writes them: bytes, or {"bytes", "path"}.

    A file's split is in its name, as in "train-00000-of-00001.parquet", or in its folder's, as in "default/train/0000.parquet".

    Raises:
        SourceError: If no file can be read.
        ImportError: If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise missing_extra("Reading Parquet", "labels", error) from None
    source, samples, masks = Source("parquet"), [], []
    folder = root if root.is_dir() else root.parent
    for file in [root] if root.is_file() else walk(root, [".parquet"]):
        try:
            with ParquetFile(contained(folder, file)) as table:
                columns = _keys(table.schema_arrow.names, f"'{file}'")
                if table.metadata.num_rows > _MOST:
                    raise SourceError(f"'{file}' has {table.metadata.num_rows:,} rows; at most {_MOST:,} are read")
                groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
        except (OSError, pa.ArrowException, SourceError) as error:
            source.problems.append(str(error) if str(file) in str(error) else f"'{file}' cannot be read: {error}")
            continue
        stem, row = file.relative_to(folder).with_suffix("").as_posix(), 0
        split = split_of(file.stem) or split_of(stem)
        for number, group in enumerate(groups):
            if group.total_byte_size > _LARGEST:
                source.problems.append(
                    f"'{file}': a group of rows has {group.total_byte_size:,} bytes; at most {_LARGEST:,} are read"
                )
                continue
            for index in range(group.num_rows):
                image, mask = (partial(_cell, file, number, columns, column, index) for column in columns)
                samples.append(Sample(f"{stem}_{row:06}", image, split=split))
                masks.append(MaskImage(mask, f"'{file}', row {row}"))
                row += 1
    return _with_masks(source, samples, masks, folder, options)


@functools.lru_cache(maxsize=1)
def _group(file: Path, number: int, columns: tuple[str, str], _time: int) -> Any:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    batches, size = [], 0
    with ParquetFile(file) as table:
        for batch in table.iter_batches(64, row_groups=[number], columns=list(columns)):
            if (size := size + batch.nbytes) > _LARGEST:  # a row that is repeated takes no bytes of the file
                raise SourceError(
                    f"'{file}': group {number} of rows unpacks to more than {_LARGEST:,} bytes, the most that are read"
                )
            batches.append(batch)
    return pa.Table.from_batches(batches)


def _cell(file: Path, number: int, columns: tuple[str, str], column: str, index: int) -> bytes:
    value = _group(file, number, columns, file.stat().st_mtime_ns)[column][index].as_py()
    value = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(value, bytes) or not value:
        raise SourceError(f"'{file}': column '{column}', row {index} of group {number} holds no bytes of an image")
    return value
