"""Commands with a network of other images than photos: each works, or refuses in one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo import Labels, Predictor, PSPNet
from pspnet_zoo.meta import Preprocess

REFUSAL = "takes 8-bit RGB images, and this network reads 4 bands (red, nir, swir, thermal) in which white is 65535"


@pytest.fixture(scope="module")
def infrared(tmp_path_factory):
    torch.manual_seed(0)
    network = PSPNet("test_resnet", None, classes=2, in_channels=4, psp_out_channels=8)
    network.labels = Labels(("field", "forest"))
    network.preprocess = Preprocess((0.4,) * 4, (0.2,) * 4, white=65535, bands=("red", "nir", "swir", "thermal"))
    return network.save_pretrained(tmp_path_factory.mktemp("models") / "infrared")


def test_info_names_the_bands(run, infrared):
    code, out, _ = run("info", infrared)
    assert code == 0 and "bands: red, nir, swir, thermal" in out and "white: 65535" in out


def test_benchmark_times_it_on_as_many_channels(run, infrared, tmp_path):
    arguments = ("--size", "64x64", "--runtimes", "torch", "--rounds", 1, "--json", tmp_path / "b.json")
    assert run("benchmark", infrared, *arguments)[0] == 0
    assert json.loads((tmp_path / "b.json").read_text())["model"] == str(infrared)


def test_bulk_refuses_it_with_the_next_step(run, infrared, tmp_path):
    pytest.importorskip("ray", reason="the extra bulk is not installed")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    code, _, err = run("bulk", tmp_path, tmp_path / "out", "--model", infrared)
    assert code == 2 and f"Bulk work {REFUSAL}" in err and "pspnet-zoo predict" in err and "Traceback" not in err


def test_bulk_works_in_tiles(aerial_photo, net, tmp_path):
    pytest.importorskip("ray", reason="the extra bulk is not installed")
    from pspnet_zoo.bulk import driver
    from pspnet_zoo.bulk.shards import Destination, Manifest
    from pspnet_zoo.bulk.sources import open_source

    model = str(net.save_pretrained(tmp_path / "model"))
    inputs = open_source(str(aerial_photo.parent))
    files, digest = driver.pack_model(model, 64, 16, None)
    manifest = Manifest("in", inputs.digest, 1, 10, model, digest, False, tiling="[64, 16, null]")
    predictor = driver.load_files(files, "cpu", json.loads(manifest.tiling))
    (row,) = driver.segment_part(predictor, inputs.part(0, 1), manifest, Destination(str(tmp_path / "out")))
    expected = Predictor(model, tile=64, overlap=16, threads=1)(aerial_photo)
    assert row.mask == expected.png() != Predictor(model, threads=1)(aerial_photo).png()
    destination = Destination(str(tmp_path / "out"))
    destination.begin(manifest)
    with pytest.raises(ValueError, match="tiling was "):
        destination.begin(Manifest("in", inputs.digest, 1, 10, model, digest, False))
    with pytest.raises(ValueError, match="overlap is 16 and no tile is given"):
        driver.pack_model(model, None, 16)
    with pytest.raises(ValueError, match="blend is False and no tile is given"):
        driver.pack_model(model, blend=False)


@pytest.fixture
def aerial_photo(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (100, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    return tmp_path / "in" / "a.png"


def test_videos_the_page_and_int8_refuse_it(infrared):
    with pytest.raises(ValueError) as error:
        Predictor(infrared).smoothed(0.5)
    assert f"A video {REFUSAL}" in str(error.value)
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    from pspnet_zoo.demo.models import Models

    with pytest.raises(ValueError) as error:
        Models([str(infrared)], zoo=False).predictor("infrared")
    assert f"The page {REFUSAL}" in str(error.value)


def test_weights_of_rgb_start_a_network_of_other_bands_and_say_so(net, tmp_path, caplog, capsys):
    net.save_pretrained(tmp_path / "rgb")
    adapted = PSPNet.from_pretrained(tmp_path / "rgb", in_channels=6)
    said = caplog.text + capsys.readouterr().err  # where commands ran before, their handler writes it too
    assert "The first convolution reads 3 channels" in said and "adapted to 6 as timm does" in said
    first = next(p for p in adapted.parameters() if p.ndim == 4)
    rgb = next(p for p in net.parameters() if p.ndim == 4)
    assert torch.allclose(first, rgb.repeat(1, 2, 1, 1) / 2)
    caplog.clear()
    PSPNet.from_pretrained(tmp_path / "rgb")
    assert "adapted" not in caplog.text
