"""Values of masks that one reader would change or mistake: colors of 16 bits, names in order, arrays of nothing."""

import numpy as np
import pytest
import rasterio
from PIL import Image

from pspnet_zoo.data.importers.sample import SourceError
from pspnet_zoo.data.importers.values import MaskImage, MaskOptions, pack, show_value
from tests.data.test_rasters import png16

from .conftest import write_images

COLORS = {"sky": (0, 128, 0), "road": (128, 64, 0), "car": (128, 0, 0), "tree": (0, 300, 700)}


def test_colors_are_the_same_in_files_of_8_and_of_16_bits(tmp_path, imported):
    write_images(tmp_path / "data" / "images", "ab")
    (tmp_path / "data" / "masks").mkdir()
    pixels = np.zeros((3, 48, 64), np.uint16)
    for row, color in enumerate(COLORS.values()):
        pixels[:, row * 12 : row * 12 + 12] = np.array(color)[:, None, None]
    png16(tmp_path / "data" / "masks" / "a.png", pixels, (48, 64))
    Image.fromarray(np.moveaxis(pixels[:, :36].repeat(2, 1)[:, :48].astype(np.uint8), 0, -1).copy()).save(
        tmp_path / "data" / "masks" / "b.png"
    )
    table = tmp_path / "colors.txt"
    table.write_text("".join(f"{r} {g} {b} {name}\n" for name, (r, g, b) in COLORS.items()))
    result = imported(tmp_path / "data", "masks", masks=MaskOptions(colors=table))
    assert not result.problems
    assert [result.named("a")[row, 0] for row in (0, 12, 24, 36)] == [*COLORS]
    assert [result.named("b")[row, 0] for row in (0, 24)] == ["sky", "road"]


def test_values_of_colors_differ_and_are_shown_as_they_are():
    colors = [(0, 128, 0), (128, 0, 0), (0, 0, 128), (0, 256, 0), (256, 0, 0), (0, 1, 256), (65535, 65535, 65535)]
    assert len({pack(color) for color in colors}) == len(colors)
    assert [show_value(pack(color)) for color in colors] == [str(color) for color in colors]


def test_names_are_of_the_colors_in_ascending_order_and_one_can_be_ignored(tmp_path, imported):
    write_images(tmp_path / "images", "a")
    (tmp_path / "masks").mkdir()
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:30], pixels[30:40], pixels[40:] = (200, 0, 0), (0, 0, 250), (0, 100, 0)
    Image.fromarray(pixels).save(tmp_path / "masks" / "a.png")
    result = imported(tmp_path, "masks", masks=MaskOptions(names=("first", "ignore", "third")))
    assert [result.named("a")[row, 0] for row in (0, 30, 40)] == ["third", "first", "-"] and not result.problems
    assert any("by --names in ascending order" in note for note in result.notes)


def test_ignore_is_no_class_of_two_values(tmp_path, imported):
    write_images(tmp_path / "images", "a")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.repeat(np.uint8([[0], [9]]), 24, 0).repeat(64, 1)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"There are 1 classes \(cell\)"):
        imported(tmp_path, "masks", masks=MaskOptions(names=("ignore", "cell")))
    with pytest.raises(SourceError, match="--names has 'ignore'"):
        imported(tmp_path, "binary", masks=MaskOptions(names=("ignore", "cell")))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("options", [{"nbits": 2}, {"nbits": 4}, {"photometric": "MINISWHITE"}], ids=str)
def test_ids_that_a_reader_would_spread_or_invert_are_refused(tmp_path, options):
    from pspnet_zoo.data.images import ImageError, read_mask

    file = tmp_path / "a.tif"
    with rasterio.open(file, "w", driver="GTiff", count=1, height=4, width=4, dtype="uint8", **options) as opened:
        opened.write(np.arange(16, dtype=np.uint8).reshape(1, 4, 4) % 4)
    with pytest.raises(ImageError, match=r"a\.tif' has . bits a pixel"):
        read_mask(file)
    with pytest.raises(SourceError, match=r"a\.tif' cannot be read: has . bits a pixel"):
        MaskImage(file).values()


def test_arrays_and_tables_of_very_many_empty_images_are_refused(tmp_path, imported, monkeypatch):
    import pspnet_zoo.data.importers.tables as tables

    np.savez(tmp_path / "empty.npz", image=np.zeros((300_000, 0, 0, 3), np.uint8), mask=np.zeros((300_000, 0, 0), np.uint8))
    with pytest.raises(SourceError, match="in which there is no pixel"):
        imported(tmp_path / "empty.npz")
    np.savez(tmp_path / "many.npz", image=np.zeros((5, 4, 4, 3), np.uint8), mask=np.zeros((5, 4, 4), np.uint8))
    monkeypatch.setattr(tables, "_MOST", 4)
    with pytest.raises(SourceError, match="has 5 images; at most 4 are read"):
        imported(tmp_path / "many.npz")


def test_rows_of_parquet_that_unpack_to_very_much_are_refused(tmp_path, imported, monkeypatch):
    import pyarrow as pa
    from pyarrow import parquet

    import pspnet_zoo.data.importers.tables as tables

    photo = write_images(tmp_path / "images", "a")["a"]
    mask = tmp_path / "mask.png"
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(mask)
    rows = {"image": [{"bytes": photo, "path": None}] * 300, "label": [{"bytes": mask.read_bytes(), "path": None}] * 300}
    file = tmp_path / "train.parquet"
    parquet.write_table(pa.table(rows), file)
    monkeypatch.setattr(tables, "_LARGEST", 100 * len(photo))
    assert file.stat().st_size < 20 * len(photo)
    with pytest.raises(SourceError, match="unpacks to more than"):
        imported(file)
