"""The files that `evaluate` writes."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo import Labels, PSPNet, export, load
from pspnet_zoo.data.images import encode_class_masks


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
    assert code == 0 and "miou" in text and "nan" not in text and "mean_boundary_f1" not in text  # neither report has one


def test_a_report_names_the_precision_and_the_threshold(run, one_class, tmp_path):
    model, data = one_class
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "threshold": 0.25}))
    code, _, err = run("evaluate", model, "--data", data, "--json", tmp_path / "a.json", "--precision", "bfloat16")
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert code == 0 and (numbers["model_precision"], numbers["threshold"]) == ("bfloat16", 0.25), err


@pytest.mark.parametrize("bias", [-50.0, 50.0], ids=["nothing predicted", "all predicted"])
def test_a_split_without_a_pixel_of_any_class_has_a_report(run, tmp_path, bias):
    network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8, multilabel=True)
    network.labels = Labels(("road", "car"), multilabel=True)
    network.segmentation_head[0].weight.data.zero_()
    network.segmentation_head[0].bias.data.fill_(bias)
    data, report, page = tmp_path / "data", tmp_path / "report.json", tmp_path / "report.html"
    for what in ("images", "masks"):
        (data / "val" / what).mkdir(parents=True)
    Image.fromarray(np.full((33, 65, 3), 90, np.uint8)).save(data / "val" / "images" / "a.png")
    (data / "val" / "masks" / "a.tif").write_bytes(encode_class_masks(np.zeros((2, 33, 65), np.uint8)))
    (data / "classes.json").write_text(json.dumps({"names": ["road", "car"], "multilabel": True}))
    command = ("evaluate", network.save_pretrained(tmp_path / "model"), "--data", data, "--json", report, "--html", page)
    code, text, err = run(*command)
    assert code == 0, err
    numbers, miou = strict(report.read_text()), None if bias < 0 else 0.0
    assert (numbers["mean_accuracy"], numbers["miou"], numbers["pixel_accuracy"]) == (None, miou, float(bias < 0))
    assert re.search(r"mean accuracy\W+-", text) and re.search(r"mIoU\W+" + ("-" if miou is None else r"0\.0000"), text)
    assert "mean accuracy<b>-</b>" in page.read_text() and ("mIoU<b>-</b>" in page.read_text()) == (miou is None)
    assert not re.search(r"\bnan\b", text + page.read_text())
    code, text, _ = run("compare", report, report)
    assert code == 0 and "nan" not in text


@pytest.mark.slow
def test_a_report_of_an_exported_file_names_the_threshold_and_the_precision_inside_it(run, one_class, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    model, data = one_class
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "threshold": 0.25}))
    file = export(model, tmp_path / "street.onnx", output="ids", precision="float16")
    code, _, err = run("evaluate", file, "--data", data, "--json", tmp_path / "a.json")
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert code == 0 and (numbers["model_precision"], numbers["threshold"]) == ("float16", 0.25), err


@pytest.mark.slow
def test_a_file_that_upsamples_its_images_refuses_windows_before_an_image_is_read(run, one_class, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    model, data = one_class
    network = load(model)
    network.preprocess = replace(network.preprocess, input_scale=1.5)
    file = export(network, tmp_path / "street.onnx", input="uint8")
    assert run("evaluate", file, "--data", data, "--protocol", "whole")[0] == 0
    (data / "val" / "images" / "a.png").write_bytes(b"broken")
    for protocol in ("semseg", "mmseg_slide_ms"):
        code, _, err = run("evaluate", file, "--data", data, "--protocol", protocol)
        assert code == 2 and "The network upsamples its images itself, so that the windows of this protocol" in err
        assert "use the protocol 'whole', or export the network with --input float32" in err and "a.png" not in err
