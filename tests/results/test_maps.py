"""Masks larger than memory: whole or absent, resumed, and read by others."""

import json
import tracemalloc

import numpy as np
import pytest

from pspnet_zoo.data.rasters import open_raster
from pspnet_zoo.meta import Labels
from pspnet_zoo.results.maps import MapWriter, quick_look

rasterio = pytest.importorskip("rasterio", reason="the extra raster is not installed")

LABELS = Labels(("water", "forest", "town"), ((0, 0, 200), (0, 120, 0), (200, 0, 0)))
SIZE = (1300, 700)
IDS = np.random.default_rng(0).choice([0, 1, 2, 255], SIZE).astype(np.uint8)
PLACE = {"crs": rasterio.crs.CRS.from_epsg(32633), "transform": rasterio.Affine(10, 0, 500000, 0, -10, 6000000)}
MADE_OF = {"image": "sha256:1", "model": "sha256:2", "tile": 512}


def write(path, stop=None, made_of=MADE_OF, **options):
    with MapWriter(path, SIZE, LABELS, made_of, **{**PLACE, **options}) as writer:
        started = writer.next_row
        while writer.next_row < SIZE[0]:
            if writer.next_row >= (stop or SIZE[0]):
                raise KeyboardInterrupt
            writer.add(IDS[writer.next_row : writer.next_row + 130])
    return started


@pytest.mark.parametrize("cloud_optimized", [False, True])
def test_a_map_has_the_ids_place_colours_and_names(tmp_path, cloud_optimized):
    path = tmp_path / "new" / "map.tif"
    write(path, cloud_optimized=cloud_optimized)
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), IDS)
        assert file.crs == PLACE["crs"] and file.transform == PLACE["transform"] and file.nodata == 255
        assert [file.colormap(1)[i][:3] for i in range(3)] == list(LABELS.colors)
        assert json.loads(file.tags()["CLASS_NAMES"]) == list(LABELS.names)
        assert file.block_shapes == [(512, 512)] and file.compression.value.lower() == "deflate"
        assert bool(file.overviews(1)) is cloud_optimized
    assert [p.name for p in path.parent.iterdir()] == ["map.tif"]


def test_an_interrupted_map_is_absent_and_continued(tmp_path):
    path = tmp_path / "map.tif"
    with pytest.raises(KeyboardInterrupt):
        write(path, stop=520)
    assert not path.exists()
    (tmp_path / ".map.tif.parts" / "000000520_000000130.part").write_bytes(b"half")  # killed while a band was written
    assert write(path) == 520
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), IDS)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: bytes(len(data)),
        lambda data: data.replace(b"ids", b"idx"),
    ],
    ids=["empty", "cut", "zeros", "another name"],
)
def test_a_damaged_band_and_those_behind_it_are_written_again(tmp_path, damage):
    path = tmp_path / "map.tif"
    with pytest.raises(KeyboardInterrupt):
        write(path, stop=520)
    band = tmp_path / ".map.tif.parts" / "000000260_000000130.npz"
    band.write_bytes(damage(band.read_bytes()))
    with MapWriter(path, SIZE, LABELS, MADE_OF, **PLACE) as writer:
        assert writer.next_row == 260
        while writer.next_row < SIZE[0]:
            writer.add(IDS[writer.next_row : writer.next_row + 200])
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), IDS)


def test_a_band_that_is_damaged_before_the_end_leaves_no_map(tmp_path):
    damaged = pytest.raises(OSError, match="were damaged meanwhile; run the same command again")
    with damaged, MapWriter(tmp_path / "map.tif", SIZE, LABELS, MADE_OF) as writer:
        writer.add(IDS)
        (tmp_path / ".map.tif.parts" / "000000000_000001300.npz").write_bytes(b"")
    assert not (tmp_path / "map.tif").exists() and write(tmp_path / "map.tif") == 0


def test_a_damaged_word_of_what_the_rows_were_made_of_begins_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "map.tif", stop=520)
    (tmp_path / ".map.tif.parts" / "made_of.json").write_bytes(b"\xff")
    assert write(tmp_path / "map.tif") == 0


def test_rows_of_another_image_or_model_are_not_taken(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "map.tif", stop=520)
    assert write(tmp_path / "map.tif", made_of={**MADE_OF, "model": "sha256:3"}) == 0


def test_two_processes_do_not_write_one_map(tmp_path):
    with pytest.raises(KeyboardInterrupt), MapWriter(tmp_path / "map.tif", SIZE, LABELS, MADE_OF):
        with pytest.raises(OSError, match="Another process writes"):
            write(tmp_path / "map.tif")
        raise KeyboardInterrupt


def test_a_map_that_is_not_whole_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has 100 of 1300 rows"), MapWriter(tmp_path / "map.tif", SIZE, LABELS, MADE_OF) as writer:
        writer.add(IDS[:100])
    assert not (tmp_path / "map.tif").exists()


def test_an_older_map_stays_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "map.tif").write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "map.tif", stop=130)
    assert (tmp_path / "map.tif").read_bytes() == b"older"


def test_an_image_without_coordinates_gives_a_mask_without(tmp_path):
    write(tmp_path / "map.tif", crs=None, transform=None)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs is None and np.array_equal(file.read(1), IDS)


def test_other_formats_and_too_many_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"does not end in \.tif"):
        MapWriter(tmp_path / "map.png", SIZE, LABELS, {})
    with pytest.raises(ValueError, match="256 classes; a map holds at most 255"):
        MapWriter(tmp_path / "map.tif", SIZE, Labels(tuple(map(str, range(256)))), {})


def test_a_quick_look_holds_a_part_of_the_image_in_memory_at_a_time(tmp_path):
    height, width = 512 * 16, 512
    kind = {"driver": "GTiff", "dtype": "uint8", "tiled": True, "blockxsize": 256, "blockysize": 256, **PLACE}
    for name, count in (("image.tif", 3), ("mask.tif", 1)):
        pixels = np.arange(count * height * width, dtype=np.uint64).reshape(count, height, width).astype(np.uint8)
        with rasterio.open(tmp_path / name, "w", count=count, height=height, width=width, **kind) as file:
            file.write(pixels)
    with open_raster(tmp_path / "image.tif") as raster:
        tracemalloc.start()
        image, ids = quick_look(raster, tmp_path / "mask.tif", (0.5,) * 3, 256)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert image.shape == (256, 16, 3) and np.array_equal(ids, pixels[0, ::32, ::32])
    assert peak < 3 * height * width / 4
