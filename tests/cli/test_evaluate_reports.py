"""The files that `evaluate` writes."""

import json

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo import Labels, PSPNet


def strict(text):
    """JSON as other readers than Python's take it."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def one_class(tmp_path):
    """A model that predicts one class everywhere, and an image of nothing else: there is no boundary."""
    network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8)
    network.labels = Labels(("field", "forest"))
    network.segmentation_head[0].weight.data.zero_()
    network.segmentation_head[0].bias.data[:] = network.segmentation_head[0].bias.new_tensor([5.0, 0.0])
    for what, pixels in (("images", np.full((33, 65, 3), 90, np.uint8)), ("masks", np.zeros((33, 65), np.uint8))):
        (tmp_path / "data" / "val" / what).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "data" / "val" / what / "a.png")
    (tmp_path / "data" / "classes.txt").write_text("field\nforest\n")
    return network.save_pretrained(tmp_path / "model"), tmp_path / "data"


def test_a_report_without_any_boundary_is_json_and_is_compared_and_shown(run, one_class, tmp_path):
    model, data = one_class
    report = tmp_path / "report.json"
    code, _, err = run("evaluate", model, "--data", data, "--json", report, "--html", tmp_path / "report.html")
    assert code == 0, err
    numbers = strict(report.read_text())
    assert numbers["mean_boundary_f1"] is None and numbers["boundary_f1"] == {"field": None, "forest": None}
    assert "nan" not in (tmp_path / "report.html").read_text()
    code, text, _ = run("compare", report, report)
    assert code == 0 and "mean_boundary_f1" in text and "nan" not in text


def test_a_report_names_the_precision_and_the_threshold(run, one_class, tmp_path):
    model, data = one_class
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "threshold": 0.25}))
    code, _, err = run("evaluate", model, "--data", data, "--json", tmp_path / "a.json", "--precision", "bfloat16")
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert code == 0 and (numbers["model_precision"], numbers["threshold"]) == ("bfloat16", 0.25), err
