"""Images that 8-bit RGB would lose, from files to an exported network by commands alone.

The class of a pixel follows from values that are gone where an image is read as 8-bit RGB: from the fifth of six bands, or from
differences below one of 256 steps of gray.
"""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pspnet_zoo.cli.app import app

pytest.importorskip("rasterio", reason="the extra raster is not installed")
pytest.importorskip("pydicom", reason="the extra raster is not installed")
pytest.importorskip("accelerate", reason="the extra train is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

from tests.data.test_rasters import png16, write_dicom, write_tiff

SIZE = (64, 64)


def six_bands(path, mask, random):
    pixels = random.normal(300, 30, (6, *mask.shape)).astype(np.float32)
    pixels[4] = 0.1 + 0.2 * mask + random.normal(0, 0.02, mask.shape)
    write_tiff(path.with_suffix(".tif"), pixels, names=("b2", "b3", "b4", "b8", "b11", "b12"))


def gray_16(path, mask, random):
    png16(
        path.with_suffix(".png"),
        (1024 + 120 * mask.astype(int) + random.integers(0, 30, mask.shape)).astype(np.uint16)[None],
        mask.shape,
    )


def dicom(path, mask, random):
    pixels = (1000 + 40 * mask.astype(int) + random.integers(0, 10, mask.shape)).astype(np.int16)
    write_dicom(path.with_suffix(".dcm"), pixels, bits=16, slope=2, intercept=-1024)


@pytest.fixture(
    params=[six_bands, pytest.param(gray_16, marks=pytest.mark.slow), pytest.param(dicom, marks=pytest.mark.slow)],
    ids=lambda kind: kind.__name__,
)
def folder(request, tmp_path):
    random = np.random.default_rng(0)
    root = tmp_path / "data"
    (root / "predictions").mkdir(parents=True)
    (root / "classes.txt").write_text("field\nforest\n")
    for split, count in (("train", 6), ("val", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros(SIZE, np.uint8)
            top, left = random.integers(0, 24, 2)
            mask[top : top + 36, left : left + 36] = 1
            request.param(root / split / "images" / f"{i}", mask, random)
            Image.fromarray(mask).save(root / split / "masks" / f"{i}.png")
    return root


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_from_files_to_an_exported_network(folder, tmp_path):
    run("data", "stats", folder, "--write")
    assert "Nothing is wrong" in run("data", "check", folder)
    settings = ["--iterations", 120, "--batch-size", 4, "--crop", 64, 64, "--lr", 0.02, "--evaluate-every", 0, "--cpu"]
    model = ("--model", "pspnet_test_resnet", "--dataset", "folder", "--data", folder)
    run("train", "-o", tmp_path / "run", *model, *settings)
    checkpoint, exported = tmp_path / "run" / "model", tmp_path / "net.onnx"
    run("evaluate", checkpoint, "--dataset", "folder", "--data", folder, "--json", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["miou"] > 0.8
    run("export", checkpoint, "-o", exported)
    for name, network in (("torch", checkpoint), ("onnx", exported)):
        run("predict", folder / "val" / "images", "--model", network, "-o", tmp_path / name)
    for i in range(2):
        truth = np.array(Image.open(folder / "val" / "masks" / f"{i}.png"))
        masks = [np.array(Image.open(next((tmp_path / name).glob(f"{i}_mask.*")))) for name in ("torch", "onnx")]
        assert np.mean(masks[0] == truth) > 0.9 and np.mean(masks[0] == masks[1]) > 0.999
        assert (tmp_path / "torch" / f"{i}_overlay.png").is_file() or (tmp_path / "torch" / f"{i}_overlay.jpg").is_file()
