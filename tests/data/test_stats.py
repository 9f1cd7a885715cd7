"""What the pixel values of a dataset are."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pspnet_zoo.cli.app import app
from pspnet_zoo.data.stats import PREPROCESS_FILE, pixel_stats, read_preprocess, write_preprocess
from pspnet_zoo.meta import Preprocess

pytest.importorskip("rasterio", reason="the extra raster is not installed")

from tests.data.test_rasters import noise, write_tiff

NAMES = ("red", "nir")


@pytest.fixture
def files(tmp_path):
    paths = []
    for i, size in enumerate([(30, 41), (17, 5), (1, 9)]):
        pixels = noise("float32", 2, size)
        if i == 0:
            pixels[:, 3:5] = np.nan
        paths.append(write_tiff(tmp_path / f"{i}.tif", pixels, names=NAMES, nodata=np.nan))
    return paths


def values_of(files, band):
    import rasterio

    found = []
    for path in files:
        with rasterio.open(path) as file:
            found.append(file.read(band + 1).ravel())
    found = np.concatenate(found).astype(np.float64)
    return found[np.isfinite(found)]


def test_statistics_are_numpys_over_all_valid_pixels(files):
    stats, problems = pixel_stats(files)
    assert not problems and stats.files == 3 and [band.name for band in stats.bands] == list(NAMES)
    for index, band in enumerate(stats.bands):
        values = values_of(files, index)
        assert (band.count, band.no_data) == (values.size, 2 * 41)
        expected = values.min(), values.max(), values.mean(), values.std()
        assert (band.minimum, band.maximum, band.mean, band.std) == pytest.approx(expected, rel=1e-9)
        assert band.percentiles() == pytest.approx(np.percentile(values, (2, 50, 98)))
    preprocess = stats.preprocess()
    assert preprocess.white == 1 and preprocess.bands == NAMES and preprocess.mean == tuple(b.mean for b in stats.bands)


def test_rows_are_read_a_few_at_a_time_with_the_same_result(files, monkeypatch):
    whole, _ = pixel_stats(files)
    monkeypatch.setattr("pspnet_zoo.data.stats._ROWS_OF", 100)
    parts, _ = pixel_stats(files)
    for a, b in zip(whole.bands, parts.bands, strict=True):
        assert (a.count, a.no_data, a.minimum, a.maximum) == (b.count, b.no_data, b.minimum, b.maximum)
        assert (a.mean, a.std) == pytest.approx((b.mean, b.std), rel=1e-12)


def test_sixteen_bits_are_scaled_by_their_own_white(tmp_path):
    stats, _ = pixel_stats([write_tiff(tmp_path / "a.tif", noise("uint16", 3))])
    preprocess = stats.preprocess()
    assert preprocess.white == 65535 and preprocess.bands == () and 0 < min(preprocess.mean) < max(preprocess.mean) < 1


def test_files_of_other_bands_or_types_are_named_and_not_counted(files, tmp_path):
    more = [
        write_tiff(tmp_path / "more.tif", noise("float32", 3), names=(*NAMES, "swir")),
        write_tiff(tmp_path / "type.tif", noise("uint16", 2), names=NAMES),
    ]
    (tmp_path / "text.tif").write_text("no image")
    stats, problems = pixel_stats([*files, *more, tmp_path / "text.tif"])
    assert stats.files == 3 and [name for name in ("more.tif", "type.tif", "text.tif") if name not in " ".join(problems)] == []
    assert "has the bands red, nir, swir of float32; the files before it have red, nir of float32" in problems[0]


def test_preprocessing_goes_to_the_folder_and_back(tmp_path):
    preprocess = Preprocess((0.1, 0.2), (0.3, 0.4), white=65535, bands=NAMES)
    assert read_preprocess(tmp_path) is None
    write_preprocess(tmp_path, preprocess)
    assert read_preprocess(tmp_path) == preprocess


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"mean": 1}', '{"mean": [1], "std": [0]}', '{"mean": [1], "std": [1], "x": 1}', "1"]
)
def test_a_file_that_states_no_preprocessing_is_named(tmp_path, text):
    (tmp_path / PREPROCESS_FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"{PREPROCESS_FILE}' does not state a preprocessing"):
        read_preprocess(tmp_path)


def test_the_command_shows_the_bands_warns_of_constant_ones_and_writes(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("field\nforest\n")
    pixels = noise("uint16", 2)
    pixels[1] = 7
    write_tiff(tmp_path / "train" / "images" / "a.tif", pixels, names=NAMES)
    (tmp_path / "train" / "images" / "b.tif").write_text("no image")
    result = CliRunner().invoke(app, ["data", "stats", str(tmp_path), "--write"])
    assert result.exit_code == 2 and "b.tif' cannot be read" in result.stderr
    assert "train: 1 image of uint16" in result.stdout and "Band nir is 7 everywhere" in result.stderr
    assert json.loads((tmp_path / PREPROCESS_FILE).read_text())["bands"] == list(NAMES)
    assert CliRunner().invoke(app, ["data", "stats", str(tmp_path), "--bands", "nir,9"]).exit_code == 2


def test_chosen_bands_without_names_are_shown_by_number_and_not_written(tmp_path):
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "masks").mkdir()
    (tmp_path / "classes.txt").write_text("field\nforest\n")
    file = write_tiff(tmp_path / "train" / "images" / "a.tif", noise("uint16", 3))
    stats, _ = pixel_stats([file], bands=[3, 1])
    assert [band.name for band in stats.bands] == ["3", "1"]
    result = CliRunner().invoke(app, ["data", "stats", str(tmp_path), "--bands", "3,2,1", "--write"])
    assert isinstance(result.exception, ValueError) and "the files have no names of bands" in str(result.exception)
    assert not (tmp_path / PREPROCESS_FILE).exists()


def test_the_sample_for_percentiles_stays_small_over_many_files(tmp_path, monkeypatch):
    files = [write_tiff(tmp_path / f"{i}.tif", noise("uint16", 2, (40, 50))) for i in range(6)]
    whole, _ = pixel_stats(files)
    monkeypatch.setattr("pspnet_zoo.data.stats._KEPT", 2000)
    thin, _ = pixel_stats(files)
    for a, b in zip(whole.bands, thin.bands, strict=True):
        assert sum(map(len, a.sample)) == 12000 and sum(map(len, b.sample)) <= 1000
        assert (a.count, a.mean, a.minimum, a.maximum) == (b.count, b.mean, b.minimum, b.maximum)
        assert b.percentiles() == pytest.approx(a.percentiles(), abs=0.1 * (a.maximum - a.minimum))
