"""`evaluate --tune-threshold` chooses, stores and uses a threshold."""

import json

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo import Labels, PSPNet


@pytest.fixture
def folders(tmp_path):
    network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8)
    network.labels = Labels(("background", "nucleus"))
    random = np.random.default_rng(0)
    for split in ("val", "test"):
        for what in ("images", "masks"):
            (tmp_path / "data" / split / what).mkdir(parents=True)
            pixels = random.integers(0, 2 if what == "masks" else 256, (33, 65) if what == "masks" else (33, 65, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / split / what / "a.png")
    (tmp_path / "data" / "classes.txt").write_text("background\nnucleus\n")
    return network.save_pretrained(tmp_path / "model"), tmp_path / "data"


def test_the_threshold_is_stored(run, folders):
    model, data = folders
    code, text, _ = run("evaluate", model, "--data", data, "--tune-threshold")
    threshold = json.loads((model / "config.json").read_text())["threshold"]
    assert code == 0 and f"Threshold {threshold:g}: Dice" in text and PSPNet.from_pretrained(model).threshold == threshold


def test_it_is_not_stored_with_weights_that_replaced_those_it_is_of(run, folders, monkeypatch):
    from pspnet_zoo.evaluation import thresholds

    model, data = folders
    choose = thresholds.tune_threshold

    def chosen(network, *arguments, **options):
        other = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8)
        other.labels = Labels(("background", "nucleus"))
        other.save_pretrained(model)
        return choose(network, *arguments, **options)

    monkeypatch.setattr(thresholds, "tune_threshold", chosen)
    code, _, err = run("evaluate", model, "--data", data, "--tune-threshold")
    assert code == 2 and f"The weights in '{model}' were replaced while their threshold was chosen" in " ".join(err.split())
    assert PSPNet.from_pretrained(model).threshold is None


def test_one_file_is_not_given_for_two_reports(run, folders, tmp_path):
    model, data = folders
    code, _, err = run("evaluate", model, "--data", data, "--json", tmp_path / "a", "--html", tmp_path / "a")
    assert code == 2 and "is given twice, and the second would replace the first" in err and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [(("--split", "test"), "would leave nothing to measure"), ((), "is no folder of a checkpoint")],
)
def test_it_is_refused_where_it_cannot_be(run, folders, arguments, message):
    model, data = folders
    name = model if arguments else "pspnet_lite0.nuclei"
    code, _, err = run("evaluate", name, "--data", data, "--tune-threshold", *arguments)
    assert code == 2 and message in err
