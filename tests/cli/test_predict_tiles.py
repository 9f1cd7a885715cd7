"""`pspnet-zoo predict` on maps, large images and other bands, as typed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo import Labels, Predictor, PSPNet, create
from pspnet_zoo.data.images import ImageError
from pspnet_zoo.data.labels import ISPRS
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.inference import tiles
from pspnet_zoo.inference.protocols import InferenceProtocol
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.results.maps import MapWriter
from pspnet_zoo.results.stamp import is_result, read_stamp
from pspnet_zoo.runtimes.torch import TorchRuntime

pytest.importorskip("rasterio", reason="the extra raster is not installed")
pytest.importorskip("pydicom", reason="the extra raster is not installed")

import rasterio

from tests.data.test_rasters import DAMAGE, noise, write_dicom, write_tiff

SIZE = (150, 130)
TILES = ("--tile", 64, "--overlap", 22)
BANDS = ("red", "nir", "swir", "thermal")


@pytest.fixture(scope="module")
def aerial(tmp_path_factory):
    """A small network with the classes of Potsdam."""
    torch.manual_seed(0)
    network = PSPNet("test_resnet", None, classes=len(ISPRS), psp_out_channels=8)
    network.labels = ISPRS
    return network.save_pretrained(tmp_path_factory.mktemp("models") / "aerial")


@pytest.fixture(scope="module")
def infrared(tmp_path_factory):
    """A small network of four bands of 16 bits."""
    torch.manual_seed(0)
    network = PSPNet("test_resnet", None, classes=2, in_channels=4, psp_out_channels=8)
    network.labels = Labels(("field", "forest"))
    network.preprocess = Preprocess((0.4,) * 4, (0.2,) * 4, white=65535, bands=BANDS)
    return network.save_pretrained(tmp_path_factory.mktemp("models") / "infrared")


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (3, *SIZE), np.uint8)


def opened(path):
    with rasterio.open(path) as file:
        return file.read(1), file


def test_a_geotiff_gives_the_mask_of_the_png_as_a_geotiff(run, aerial, photo, tmp_path):
    source = write_tiff(tmp_path / "a.tif", photo, photometric="RGB")
    Image.fromarray(np.moveaxis(photo, 0, -1)).save(tmp_path / "b.png")
    for options in ([], TILES):
        folder = tmp_path / f"out{len(options)}"
        assert run("predict", source, tmp_path / "b.png", "-o", folder, "--model", aerial, *options)[0] == 0
        with rasterio.open(source) as original, rasterio.open(folder / "a_mask.tif") as file:
            assert (file.crs, file.transform, file.shape) == (original.crs, original.transform, original.shape)
            assert file.nodata == 255 and json.loads(file.tags()["CLASS_NAMES"]) == list(ISPRS.names)
            assert [file.colormap(1)[i][:3] for i in range(len(ISPRS))] == list(ISPRS.colors)
        ids, _ = opened(folder / "a_mask.tif")
        assert len(np.unique(ids)) > 1
        assert np.array_equal(ids, np.array(Image.open(folder / f"b_mask.{'tif' if options else 'png'}")))
        with Image.open(folder / "a_overlay.png") as overlay:
            assert overlay.size >= SIZE[::-1]
        assert is_result(folder / "a_mask.tif") and not is_result(source)
    assert not list(tmp_path.rglob(".*"))


def test_no_data_stays_no_data(run, aerial, photo, tmp_path):
    photo = np.maximum(photo, 1)
    photo[:, 30:50, 20:60] = 0
    write_tiff(tmp_path / "a.tif", photo, nodata=0)
    write_tiff(tmp_path / "none.tif", np.zeros_like(photo), nodata=0)
    for options in ([], TILES):
        folder = tmp_path / f"out{len(options)}"
        code, out, err = run("predict", tmp_path / "a.tif", tmp_path / "none.tif", "-o", folder, "--model", aerial, *options)
        ids, _ = opened(folder / "a_mask.tif")
        assert (ids[30:50, 20:60] == 255).all() and (ids == 255).sum() == 800
        assert code == 2 and err.count("Error: ") == 1 and "none.tif' has no data in any pixel" in err
        assert not (folder / "none_mask.tif").exists() and "results of 1 file to" in out


@pytest.mark.parametrize("size", [SIZE, pytest.param((6000, 6000), marks=pytest.mark.slow)], ids=str)
def test_an_aerial_checkpoint_in_windows_of_its_protocol_is_what_evaluation_finds(run, aerial, size, tmp_path):
    """Published: Potsdam, cut into 512x512 pixels that overlap by half."""
    window = 64
    if size != SIZE:
        window, network = 512, create("pspnet_r18c", classes=len(ISPRS), encoder_weights=None)
        network.labels = ISPRS
        aerial = network.save_pretrained(tmp_path / "model")
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "masks").mkdir()
    (tmp_path / "classes.txt").write_text("\n".join(ISPRS.names))
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8)
    source = write_tiff(tmp_path / "val" / "images" / "a.tif", pixels)
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "val" / "masks" / "a.png")
    found = []
    protocol = InferenceProtocol(source="mmseg's tools/convert_datasets/potsdam.py", crop=(window,) * 2, stride=(window // 2,) * 2)
    predictor = Predictor(aerial)
    evaluate(predictor.runtime, open_dataset("folder", tmp_path, "val"), protocol, save=lambda _, ids: found.append(ids.numpy()))
    options = ["--tile", window, "--overlap", window // 2, "--no-blend", "--masks-only"]
    assert run("predict", source, "-o", tmp_path / "out", "--model", aerial, *options)[0] == 0
    ids, _ = opened(tmp_path / "out" / "a_mask.tif")
    assert np.array_equal(ids, found[0]) and len(np.unique(ids)) > 1


def test_what_was_interrupted_is_continued_and_every_pixel_is_written_once(run, aerial, photo, tmp_path, monkeypatch):
    source = write_tiff(tmp_path / "a.tif", photo)
    arguments = ("predict", source, "-o", tmp_path / "out", "--model", aerial, *TILES, "--report", tmp_path / "r.jsonl")
    network, calls, rows = TorchRuntime.__call__, [], []

    def counted(self, x):
        calls.append(1)
        if len(calls) == 8 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt
        return network(self, x)

    add = MapWriter.add
    monkeypatch.setattr(TorchRuntime, "__call__", counted)
    monkeypatch.setattr(MapWriter, "add", lambda self, ids: (rows.append((self.next_row, len(ids))), add(self, ids)))
    code, _, err = run(*arguments)
    assert code == 130 and "Stopped with 0 of 1 done" in err and not (tmp_path / "out" / "a_mask.tif").exists()
    assert run(*arguments)[0] == 0
    tiling = tiles.Tiling(64, 22)
    whole = len(tiling.starts(SIZE[0])) * len(tiling.starts(SIZE[1]))
    assert len(calls) < 8 + whole  # the first rows were not computed again
    assert [row for first, count in rows for row in range(first, first + count)] == list(range(SIZE[0]))
    expected = np.concatenate(list(Predictor(aerial, tile=64, overlap=22).rows(source)))
    assert np.array_equal(opened(tmp_path / "out" / "a_mask.tif")[0], expected)
    row = json.loads((tmp_path / "r.jsonl").read_text())
    assert (row["height"], row["width"]) == SIZE and sum(row["class_fractions"].values()) == pytest.approx(1)
    calls.clear()
    code, out, _ = run(*arguments, "--skip-existing")
    again = json.loads((tmp_path / "r.jsonl").read_text())
    assert code == 0 and "1 were there already" in out and not calls and again["class_fractions"] == row["class_fractions"]
    assert run(*arguments[:-2], "--skip-existing", "--no-blend")[0] == 0 and calls  # another tiling is another mask


def test_a_map_that_needs_too_much_memory_does_not_stop_the_next_one(run, aerial, photo, tmp_path, monkeypatch):
    write_tiff(tmp_path / "a.tif", photo)
    write_tiff(tmp_path / "b.tif", photo)
    network, calls = TorchRuntime.__call__, []

    def short(self, x):
        calls.append(x)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return network(self, x)

    monkeypatch.setattr(TorchRuntime, "__call__", short)
    code, out, err = run("predict", tmp_path / "a.tif", tmp_path / "b.tif", "-o", tmp_path / "out", "--model", aerial, *TILES)
    assert code == 2 and f"Error: '{tmp_path / 'a.tif'}': needs more memory than there is\n" in err
    assert "results of 1 file to" in out and (tmp_path / "out" / "b_mask.tif").exists()


def test_a_map_that_was_cut_is_made_again(run, aerial, photo, tmp_path):
    source, mask = write_tiff(tmp_path / "a.tif", photo), tmp_path / "out" / "a_mask.tif"
    arguments = ("predict", source, "-o", tmp_path / "out", "--model", aerial, "--cog", *TILES)
    assert run(*arguments)[0] == 0
    ids, _ = opened(mask)
    mask.write_bytes(mask.read_bytes()[:-500])
    assert read_stamp(mask)  # of these maps at the beginning of the file
    assert run(*arguments, "--skip-existing", "--report", tmp_path / "r.csv")[0] == 0 and np.array_equal(opened(mask)[0], ids)


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_one_continues(run, aerial, tmp_path):
    source = write_tiff(tmp_path / "a.tif", noise("uint8", 3, (1500, 400)))
    arguments = ["predict", str(source), "-o", str(tmp_path / "out"), "--model", str(aerial), "--tile", "128", "--masks-only"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-m", "pspnet_zoo.cli", *arguments], env=environment, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("out/.a_mask.tif.parts/*.npz"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.glob("out/.a_mask.tif.parts/*.npz"))) >= 3
    assert run(*arguments)[0] == 0
    expected = np.concatenate(list(Predictor(aerial, tile=128).rows(source)))
    assert np.array_equal(opened(tmp_path / "out" / "a_mask.tif")[0], expected)


def test_an_array_in_tiles_is_the_file_in_tiles(aerial, photo, tmp_path):
    predictor = Predictor(aerial, tile=64, overlap=22)
    rows = np.concatenate(list(predictor.rows(write_tiff(tmp_path / "a.tif", photo))))
    prediction = predictor(np.ascontiguousarray(np.moveaxis(photo, 0, -1)), probabilities=True)
    assert np.array_equal(prediction.mask, rows) and np.array_equal(prediction.probabilities.argmax(0), rows)
    assert not np.array_equal(rows, Predictor(aerial)(tmp_path / "a.tif").mask)
    with pytest.raises(ValueError, match=r"segments whole images; give Predictor\(tile=512\)"):
        next(Predictor(aerial).rows(tmp_path / "a.tif"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--overlap", 8], "overlap is 8 and no tile is given"),
        (["--no-blend"], "blend is False and no tile is given"),
        (["--tile", 64, "--overlap", 33], "the overlap is 0 to half of a tile"),
        (["--tile", 2048], "the network reads at most 2,097,152 pixels, tiles of 1448 or less"),
        (["--overlay-bands", "red"], "overlay_bands is ['red']; this network reads 8-bit RGB"),
        (["--stretch", 2, 98], "this network reads 8-bit RGB"),
    ],
)
def test_options_that_would_change_nothing_are_refused(run, aerial, photo, tmp_path, options, expected):
    code, _, err = run("predict", write_tiff(tmp_path / "a.tif", photo), "-o", tmp_path / "out", "--model", aerial, *options)
    assert code == 2 and expected in err and err.count("\n") == 1


def test_a_cloud_optimised_map_has_overviews(run, aerial, tmp_path):
    source = write_tiff(tmp_path / "a.tif", noise("uint8", 3, (80, 700)))
    assert run("predict", source, "-o", tmp_path / "out", "--model", aerial, "--cog", "--masks-only")[0] == 0
    with rasterio.open(tmp_path / "out" / "a_mask.tif") as file:
        assert file.overviews(1) and file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_damaged_rasters_are_a_line_each_and_the_others_are_done(run, infrared, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("good.tif", "better.tif"):
        write_tiff(tmp_path / "in" / name, noise("uint16", 4), names=BANDS)
    for name, make in DAMAGE.items():
        make(tmp_path / "in" / name)
    (tmp_path / "in" / "secret.tif").unlink()
    damage = [path for path in (tmp_path / "in").iterdir() if path.name in DAMAGE]
    for options in ([], TILES):
        folder = tmp_path / f"out{len(options)}"
        code, out, err = run("predict", *sorted((tmp_path / "in").iterdir()), "-o", folder, "--model", infrared, *options)
        assert code == 2 and "results of 2 files to" in out and err.count("Error: ") == len(damage) >= 12
        assert all(sum(str(path) in line for line in err.splitlines()) == 1 for path in damage)
        assert sorted(path.name for path in folder.glob("*_mask.*")) == ["better_mask.tif", "good_mask.tif"]
        assert "Doe" not in err + out and "Traceback" not in err


def odd(tmp_path):
    pixels = noise("float32", 4)
    pixels[1, 3, 4] = np.nan
    yield write_tiff(tmp_path / "nan.tif", pixels, names=BANDS), "has 1 pixel values that are NaN or infinite"
    yield write_tiff(tmp_path / "five.tif", noise("uint16", 5)), "has 5 bands; the network reads 4 (red, nir, swir, thermal)"
    yield write_tiff(tmp_path / "other.tif", noise("uint16", 3), names=BANDS[:3]), "the network also reads thermal"
    yield write_tiff(tmp_path / "none.tif", np.zeros((4, *SIZE), np.uint16), nodata=0, names=BANDS), "has no data in any pixel"
    yield write_dicom(tmp_path / "a.dcm", noise("uint16")[0] % 4096), "has 1 bands; the network reads 4"


@pytest.mark.parametrize("options", [(), TILES], ids=["whole", "tiles"])
def test_a_file_that_does_not_fit_is_named_with_the_reason(run, infrared, tmp_path, options):
    files = dict(odd(tmp_path))
    code, _, err = run("predict", *files, "-o", tmp_path / "out", "--model", infrared, *options)
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert code == 2 and len(lines) == len(files)
    for path, reason in files.items():
        assert [line for line in lines if str(path) in line and reason in line], reason


def test_nan_pixels_and_a_missing_crs_are_named(run, tmp_path, caplog):
    network = PSPNet("test_resnet", None, classes=2, in_channels=2, psp_out_channels=8)
    network.labels, network.preprocess = Labels(("a", "b")), Preprocess((300.0,) * 2, (40.0,) * 2, white=1)
    model = network.save_pretrained(tmp_path / "model")
    pixels = noise("float32", 2)
    write_tiff(tmp_path / "place.tif", pixels, crs=None)
    pixels[1, 3, 4] = np.inf
    write_tiff(tmp_path / "inf.tif", pixels)
    for options in ([], TILES):
        caplog.clear()
        code, _, err = run(
            "predict", tmp_path / "inf.tif", tmp_path / "place.tif", "-o", tmp_path / "out", "--model", model, *options
        )
        assert code == 2 and "inf.tif' has 1 pixel values that are NaN or infinite" in err and err.count("Error: ") == 1
        assert "place.tif' states a transform and no CRS" in caplog.text + err
        assert opened(tmp_path / "out" / "place_mask.tif")[1].transform == rasterio.Affine(10, 0, 500000, 0, -10, 6000000)


def test_overlays_show_the_bands_that_are_named_between_percentiles(run, infrared, tmp_path):
    source = write_tiff(tmp_path / "a.tif", noise("uint16", 4), names=BANDS)
    looks = []
    for options in ((), ("--overlay-bands", "nir,2,thermal"), ("--stretch", 0, 100), (*TILES, "--overlay-bands", "thermal")):
        assert run("predict", source, "-o", tmp_path / "out", "--model", infrared, "--alpha", 0, *options)[0] == 0
        looks.append(np.array(Image.open(tmp_path / "out" / "a_overlay.png"))[:70, :90])
    assert np.array_equal(looks[1][..., 0], looks[1][..., 1]) and np.array_equal(looks[1][..., 0], looks[0][..., 1])
    assert (looks[0] == 255).sum() > 3 * (looks[2] == 255).sum() > 0
    assert np.array_equal(looks[3], looks[1][..., 2:].repeat(3, axis=2))
    for wrong, reason in (
        ("swir,red", "2 bands are to be shown"),
        ("blue", "reads no band 'blue'; it reads red, nir, swir, thermal"),
    ):
        code, _, err = run("predict", source, "-o", tmp_path / "out", "--model", infrared, "--overlay-bands", wrong)
        assert code == 2 and reason in err


def test_photos_beyond_the_limit_of_pillow_are_read_by_windows(aerial, photo, tmp_path, monkeypatch, run):
    image = Image.fromarray(np.moveaxis(photo, 0, -1))
    for name in ("a.png", "a.jpg", "a.tif", "a.webp"):
        image.save(tmp_path / name)
    image.convert("L").save(tmp_path / "gray.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("turned.jpg", "turned.tif"):
        image.save(tmp_path / name, exif=exif)
    for name in ("turned.jpg", "turned.tif"):  # a tile of the size of the image
        ids = np.concatenate(list(Predictor(aerial, tile=256).rows(tmp_path / name)))
        assert np.array_equal(ids, Predictor(aerial)(tmp_path / name).mask) and ids.shape == image.size
    whole = {name: np.concatenate(list(Predictor(aerial, tile=64).rows(tmp_path / name))) for name in ("a.png", "a.jpg", "a.tif")}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    predictor = Predictor(aerial, tile=64)
    for name, ids in whole.items():
        found = np.concatenate(list(predictor.rows(tmp_path / name)))
        assert np.mean(found == ids) > (0.95 if name == "a.jpg" else 1 - 1e-9), name  # GDAL has another JPEG decoder
    for name, reason in {
        "a.webp": "windows are read of TIFF, PNG and JPEG: save it as TIFF",
        "gray.png": "has 1 bands; the network reads 3",
        "turned.jpg": "needs it whole; save it upright",
        "turned.tif": "is to be turned as its tag Orientation states",
    }.items():
        with pytest.raises(ImageError, match=reason):
            next(predictor.rows(tmp_path / name))
    assert "--tile 512" in run("predict", tmp_path / "a.png", "-o", tmp_path / "out", "--model", aerial)[2]
    monkeypatch.setattr(tiles, "BLOCK_BYTES", 100)
    with pytest.raises(ImageError, match="stored in parts of .* GB, .* rio convert --co tiled=yes"):
        next(predictor.rows(tmp_path / "a.tif"))


LARGE = """
import resource, sys
import torch
from pathlib import Path
from pspnet_zoo import Labels, Predictor, PSPNet
from pspnet_zoo.results.jobs import Job
from pspnet_zoo.results.sink import ResultSink

net = PSPNet("test_resnet", None, classes=2, psp_out_channels=8).eval()
net.labels = Labels(("a", "b"))
predictor = Predictor(net, tile=1024, overlap=64)

class Tiny(torch.nn.Conv2d):
    preprocess, labels, classes, activation, image_size = net.preprocess, net.labels, 2, None, None
    device, dtype = torch.device("cpu"), torch.float32

predictor.runtime = Tiny(3, 2, 3, padding=1)
sink = ResultSink("tiny", "0")
print(sink.segment_map(predictor, Job(Path("a.tif"), "a", Path("a_overlay.png"), Path("a_mask.tif")), lambda done, total: None))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_very_large_map_takes_little_memory(tmp_path):
    """30,000 x 30,000 pixels and a network of one convolution, in a process of its own whose largest memory is measured."""
    rows = np.random.default_rng(0).integers(0, 256, (3, 512, 30000), np.uint8)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 500000, 0, -1, 6000000), "BIGTIFF": "YES"}
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel"}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=3, height=30000, width=30000, dtype="uint8", **place, **blocks
    ) as file:
        for top in range(0, 30000, 512):
            count = min(512, 30000 - top)
            file.write(rows[:, :count], window=rasterio.windows.Window(0, top, 30000, count))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", LARGE], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 1.5e6  # kilobytes
    with rasterio.open(tmp_path / "a_mask.tif") as file:
        assert file.shape == (30000, 30000) and file.crs == rasterio.crs.CRS.from_epsg(32633)


@pytest.mark.slow
def test_a_map_takes_little_more_time_than_its_network(tmp_path):
    """The default model on 6000x6000, against the same tiles in memory; each tile counts with its overlap."""
    source = write_tiff(tmp_path / "a.tif", noise("uint8", 3, (6000, 6000)), tiled=True, blockxsize=512, blockysize=512)
    predictor = Predictor(tile=512)
    pixels, tiling = predictor.read(source), predictor.tiling
    starts = [(top, left) for top in tiling.starts(6000) for left in tiling.starts(6000)]
    loaded = [torch.from_numpy(pixels[t : t + 512, x : x + 512].transpose(2, 0, 1).copy()) for t, x in starts]
    tiles._tile_scores(predictor.runtime, loaded[0])
    seconds = [0.0, 0.0]
    start = time.perf_counter()
    for tile in loaded:
        tiles._tile_scores(predictor.runtime, tile)
    seconds[0] = time.perf_counter() - start
    start = time.perf_counter()
    for _ in predictor.rows(source):
        pass
    seconds[1] = time.perf_counter() - start
    assert seconds[1] < 1.15 * seconds[0], seconds
