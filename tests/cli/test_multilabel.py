"""Several classes a pixel from a folder of masks to an exported file, by commands alone."""

import json
import re

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from pspnet_zoo import Labels, Predictor, PSPNet
from pspnet_zoo.data.images import read_class_masks
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.results.stamp import is_result


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def model(multilabel_net, tmp_path):
    multilabel_net.threshold = (0.45, 0.5, 0.55)
    return multilabel_net.save_pretrained(tmp_path / "model")


def test_from_masks_to_predictions_and_back(run, circles, tmp_path):
    """Circles that overlap: check, train, tune, measure, predict, and the same masks from each."""
    code, text, _ = run("data", "check", circles)
    assert code == 0 and "Nothing is wrong" in text
    settings = ["--iterations", 50, "--batch-size", 4, "--crop", 64, 64, "--lr", 0.05, "--head-factor", 2, "--evaluate-every", 50]
    arguments = ["--model", "pspnet_test_efficientnet", "--dice-weight", 0.5, "--log", "none", "--workers", 0, "--cpu", *settings]
    code, text, err = run("train", "--recipe", "finetune", "--data", circles, "-o", tmp_path / "run", *arguments)
    assert code == 0 and "Best mIoU" in text, err
    folder, report = tmp_path / "run" / "model", tmp_path / "report.json"
    outputs = ["--json", report, "--html", tmp_path / "report.html", "--save-predictions", tmp_path / "saved"]
    code, text, err = run("evaluate", folder, "--data", circles, "--tune-threshold", *outputs)
    assert code == 0 and re.search(r"Thresholds red 0\.\d+, green 0\.\d+, blue 0\.\d+: mean Dice", text), err
    found, config = json.loads(report.read_text()), json.loads((folder / "config.json").read_text())
    network = PSPNet.from_pretrained(folder)
    assert network.multilabel and list(network.threshold) == config["threshold"] and min(found["dice"].values()) > 0.5
    assert found["iou"] == evaluate(network, open_dataset("folder", circles, "val")).iou
    assert "Confusion matrix" not in (tmp_path / "report.html").read_text()

    code, text, err = run("predict", circles / "val" / "images", "--model", folder, "-o", tmp_path / "out", "--format", "coco")
    assert code == 0, err
    predictor, coco = Predictor(folder), json.loads((tmp_path / "out" / "coco.json").read_text())
    for index, image in enumerate(sorted((circles / "val" / "images").iterdir())):
        mask = predictor(image).mask
        assert mask.shape == (3, 64, 64) and mask.dtype == bool
        assert is_result(tmp_path / "out" / f"{image.stem}_mask.tif")
        assert np.array_equal(read_class_masks(tmp_path / "out" / f"{image.stem}_mask.tif", 3), mask)
        assert np.array_equal(read_class_masks(tmp_path / "saved" / f"{image.stem}_mask.tif", 3), mask)
        areas = [a["area"] for a in coco["annotations"] if a["image_id"] == index + 1]
        assert sum(areas) == mask.sum()
    assert (mask.sum(axis=0) > 1).any()


@pytest.mark.parametrize("file", ["net.onnx", pytest.param("net.xml", marks=pytest.mark.slow)])
def test_an_exported_file_gives_the_same_masks(run, model, circles, tmp_path, file):
    code, _, err = run("export", model, "-o", tmp_path / file, "--output", "ids")
    assert code == 0, err
    image = circles / "val" / "images" / "val00.png"
    found, expected = Predictor(tmp_path / file)(image), Predictor(model)(image)
    assert found.labels == expected.labels and found.mask.dtype == bool and found.mask.shape == (3, 64, 64)
    assert (found.mask != expected.mask).mean() < 1e-3 and expected.mask.any()


@pytest.mark.slow
def test_a_program_gives_the_same_masks(run, model, tmp_path):
    assert run("export", model, "-o", tmp_path / "net.pt2", "--output", "ids")[0] == 0
    images = torch.randn(2, 3, 64, 48)
    found = torch.export.load(tmp_path / "net.pt2").module()(images)
    assert torch.equal(
        found.bool(), PSPNet.from_pretrained(model)(images).sigmoid() > torch.tensor([0.45, 0.5, 0.55]).view(3, 1, 1)
    )


@pytest.mark.slow
def test_logits_of_an_exported_file_obey_the_thresholds(run, model, circles, tmp_path):
    assert run("export", model, "-o", tmp_path / "net.onnx")[0] == 0
    code, _, err = run("evaluate", tmp_path / "net.onnx", "--data", circles, "--json", tmp_path / "report.json")
    assert code == 0, err
    expected = evaluate(PSPNet.from_pretrained(model), open_dataset("folder", circles, "val"))
    assert json.loads((tmp_path / "report.json").read_text())["iou"] == pytest.approx(expected.iou, abs=2e-3)


def test_predictions_are_a_dataset_again(run, model, circles, tmp_path):
    """What `predict` writes is what the folder layout reads."""
    images = circles / "val" / "images"
    assert run("predict", images, "--model", model, "-o", tmp_path / "out", "--masks-only")[0] == 0
    for file in sorted(images.iterdir()):
        (tmp_path / "out" / f"{file.stem}_mask.tif").rename(circles / "val" / "masks" / f"{file.stem}.tif")
    dataset = open_dataset("folder", circles, "val")
    assert set(evaluate(PSPNet.from_pretrained(model), dataset).iou.values()) <= {1.0, None}


def test_a_second_run_skips_what_is_there(run, model, circles, tmp_path):
    arguments = ("predict", circles / "val" / "images", "--model", model, "-o", tmp_path / "out", "--report", tmp_path / "rows.csv")
    assert run(*arguments)[0] == 0
    rows = (tmp_path / "rows.csv").read_text().splitlines()
    code, text, _ = run(*arguments, "--skip-existing")
    again = (tmp_path / "rows.csv").read_text().splitlines()
    assert code == 0 and "6 were there already" in text and len(again) == len(rows) == 7
    columns = [i for i, name in enumerate(rows[0].split(",")) if "red" in name or "blue" in name]
    assert columns and all(a.split(",")[i] == b.split(",")[i] for a, b in zip(rows, again, strict=True) for i in columns)


@pytest.mark.parametrize("kind", ["labelme", "yolo", "geojson"])
def test_shapes_are_those_of_each_class(run, model, circles, tmp_path, kind):
    image = circles / "val" / "images" / "val00.png"
    assert run("predict", image, "--model", model, "-o", tmp_path / "out", "--format", kind)[0] == 0
    count = len(Predictor(model)(image).polygons())
    if kind == "yolo":
        assert len((tmp_path / "out" / "labels" / "val00.txt").read_text().splitlines()) == count
    else:
        values = json.loads((tmp_path / "out" / f"val00.{'json' if kind == 'labelme' else 'geojson'}").read_text())
        assert len(values["shapes" if kind == "labelme" else "features"]) == count > 0


REFUSED = {
    "predict --confidence": "A confidence (--confidence) is of one class a pixel, and this network is multi-label",
    "predict --tile 32": "whose masks have one class a pixel, and the network is multi-label; leave out --tile",
    "evaluate --mapping": "A mapping is for masks of one class a pixel, and the dataset is multi-label; leave the mapping out",
    "rank": "Ranking measures how unsure one class a pixel is, and the model is multi-label",
    "bulk": "Bulk work is of one class a pixel, and this network is multi-label",
    "export --precision int8": "int8 is checked by the one class of each pixel, and this network is multi-label",
    "export --output ids+confidence": "A confidence is of the one class of each pixel, and this network is multi-label",
    "train --teacher": "The teacher is multi-label, and soft labels are of one class a pixel",
    "train --dataset folder --recipe camvid": "class_weight_power is 0.3, which weighs classes that exclude each other",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_of_one_class_a_pixel_is_refused(run, model, circles, tmp_path, what):
    images, classes = circles / "val" / "images", tmp_path / "classes.json"
    classes.write_text(json.dumps({"names": ["red", "rest"], "mapping": {"rest": ["green", "blue"]}}))
    command, *options = what.split()
    arguments = {
        "predict": ["predict", images, "--model", model, "-o", tmp_path / "out"],
        "evaluate": ["evaluate", model, "--data", circles],
        "rank": ["rank", images, "--model", model, "-o", tmp_path / "ranking.csv"],
        "bulk": ["bulk", images, tmp_path / "bulk", "--model", model],
        "export": ["export", model, "-o", tmp_path / "net", *(["--calibration", images] if "int8" in options else [])],
        "train": ["train", "--data", circles, "-o", tmp_path / "run", "--model", "pspnet_test_efficientnet", "--cpu"],
    }[command]
    options += {"--mapping": [classes], "--teacher": [model]}.get(options[-1] if options else "", [])
    code, _, err = run(*arguments, *options)
    assert code == 2 and REFUSED[what] in " ".join(err.split()), err
    assert not (tmp_path / "net").exists()


def annotations(folder):
    """A COCO source: two squares of different classes that overlap, one of a category that is not defined, and another image."""
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(folder / "images" / f"{name}.png")

    def square(image, category, left, right):
        ring = [left, 5, right, 5, right, 25, left, 25]
        return {"image_id": image, "category_id": category, "segmentation": [ring], "iscrowd": 0}

    objects = [square(1, 1, 5, 20), square(1, 2, 15, 30), square(1, 9, 25, 38), square(2, 2, 0, 10)]
    values = {
        "images": [{"id": i, "file_name": f"{name}.png", "width": 40, "height": 30} for i, name in enumerate("ab", 1)],
        "categories": [{"id": 1, "name": "tree"}, {"id": 2, "name": "road"}],
        "annotations": [{"id": i, **each} for i, each in enumerate(objects)],
    }
    (folder / "annotations.json").write_text(json.dumps(values))
    return folder


def test_import_keeps_objects_that_overlap(run, tmp_path):
    source, output = annotations(tmp_path / "source"), tmp_path / "data"
    code, text, err = run("data", "import", source, "-o", output, "--multilabel", "--split", 0.5, 0.5)
    assert code == 2 and "category" in err  # of the object that has none
    assert json.loads((output / "classes.json").read_text())["names"] == ["tree", "road"]
    masks = read_class_masks(next(output.glob("*/masks/a.tif")), 2)
    tree, road, unknown = (np.zeros((30, 40), bool) for _ in range(3))
    tree[5:25, 5:20], road[5:25, 15:30], unknown[5:25, 25:38] = True, True, True
    assert np.array_equal(masks[0] == 1, tree) and np.array_equal(masks[1] == 1, road)
    assert np.array_equal(masks[0] == 255, unknown) and np.array_equal(masks[1] == 255, unknown & ~road)
    assert "covered" not in text and (output / "contact_sheet.png").exists()
    assert open_dataset("folder", output, "val").labels.multilabel


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--priority", "first"], "--priority decides which of several objects a pixel is of"),
        (["--background", "sky"], "what nobody drew is of no class; leave out --background"),
        (["--classes", "{classes}"], '--multilabel goes with a --classes file that has "multilabel": true'),
    ],
)
def test_import_refuses_what_contradicts_multilabel(run, tmp_path, options, message):
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["tree", "road"]}))
    options = [option.format(classes=tmp_path / "classes.json") for option in options]
    code, _, err = run("data", "import", annotations(tmp_path / "source"), "-o", tmp_path / "data", "--multilabel", *options)
    assert code == 2 and message in " ".join(err.split()) and not (tmp_path / "data").exists()


def test_a_prediction_shows_overlapping_colors(multilabel_net):
    prediction = Predictor(multilabel_net)(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    object.__setattr__(prediction, "mask", np.zeros((3, 32, 48), bool))
    prediction.mask[:2, :8], prediction.mask[0, 8:16] = True, True
    shown = np.asarray(prediction.colorize())
    assert shown[0, 0].tolist() == [128, 128, 0] and shown[8, 0].tolist() == [255, 0, 0] and not shown[16:].any()
    overlay = np.asarray(prediction.overlay(0.5))
    assert np.array_equal(overlay[16:], prediction.image[16:]) and not np.array_equal(overlay[:8], prediction.image[:8])
    assert prediction.class_fractions == {"red": 0.5, "green": 0.25, "blue": 0.0}
    assert [(p.class_id, p.area) for p in prediction.polygons()] == [(0, 16 * 48), (1, 8 * 48)]
    with pytest.raises(ValueError, match="multi-label; save it as .tif"):
        prediction.png()


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        (np.zeros((2, 64, 64)), "has 2 pages; multi-label masks of 3 classes have a page a class"),
        (np.full((3, 64, 64), 7), r"holds the values \[7\]; multi-label masks hold 0, 1 for the class"),
        (np.zeros((3, 60, 64)), "they must be of one size"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(run, circles, pages, message):
    file = circles / "train" / "masks" / "train00.tif"
    first, *rest = (Image.fromarray(page.astype(np.uint8)) for page in pages)
    first.save(file, save_all=True, append_images=rest)
    code, _, err = run("data", "check", circles)
    assert code == 2 and "train00.tif" in err and re.search(message, " ".join(err.split()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multilabel": "yes"}, "\"multilabel\" is 'yes'; it must be true"),
        ({"background": "red"}, 'with "multilabel", masks have a page a class'),
        ({"ignore": 7}, 'with "multilabel", masks have a page a class'),
    ],
)
def test_classes_that_contradict_multilabel_are_refused(run, circles, changes, message):
    classes = json.loads((circles / "classes.json").read_text())
    (circles / "classes.json").write_text(json.dumps({**classes, **changes}))
    code, _, err = run("data", "check", circles)
    assert code == 2 and message in " ".join(err.split())


@pytest.mark.parametrize("threshold", [0.5, (0.5, 0.5), (0.5, 0.5, 1.0)])
def test_thresholds_of_another_number_are_refused(multilabel_net, threshold, tmp_path):
    multilabel_net.threshold = threshold
    with pytest.raises(ValueError, match="threshold is"):
        multilabel_net.save_pretrained(tmp_path / "model")


def test_one_class_may_be_multilabel(tmp_path):
    network = PSPNet("test_efficientnet", None, classes=1, psp_out_channels=8, multilabel=True, activation="sigmoid")
    network.labels = Labels(("crack",))
    found = Predictor(PSPNet.from_pretrained(network.save_pretrained(tmp_path / "model")))(np.zeros((33, 40, 3), np.uint8))
    assert found.mask.shape == (1, 33, 40) and found.labels.multilabel
