"""What an evaluation leaves behind."""

import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo.data.labels import CITYSCAPES, Labels
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation import report as module
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.evaluation.page import html_page, read_history
from pspnet_zoo.evaluation.report import commit, data_digest, prediction_saver, report, worst_and_best


@pytest.fixture
def dataset(camvid):
    data = open_dataset("camvid", camvid, "train")
    data.images, data.masks = list(data.images), list(data.masks)  # to be changed by tests
    return data


def test_the_report_names_weights_data_versions_and_protocol(net, dataset, tmp_path):
    numbers = report(evaluate(net, dataset), net, dataset)
    assert json.loads(json.dumps(numbers))["confusion"] == numbers["confusion"]
    weights = net.save_pretrained(tmp_path / "model") / "model.safetensors"
    assert numbers["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert numbers["versions"]["torch"] == torch.__version__ and numbers["versions"].keys() >= {"timm", "torchvision", "python"}
    assert numbers["protocol_settings"]["scales"] == (1.0,) and numbers["device"] == "cpu"
    assert numbers["miou"] and numbers["iou"].keys() == set(dataset.labels.names)


def test_the_data_digest_tells_other_files_apart(dataset, camvid):
    before = data_digest(dataset)
    assert data_digest(open_dataset("camvid", camvid, "train")) == before != data_digest(open_dataset("camvid", camvid, "val"))
    with dataset.masks[0].open("ab") as file:
        file.write(b"\0")
    assert data_digest(dataset) != before


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_a_checkout_or_none(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)

    package = tmp_path / "pspnet_zoo" / "runtime"
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "report.py"))
    assert commit() is None
    git("init", "-q")
    assert commit() is None  # no commit yet
    (package / "report.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    assert re.fullmatch("[0-9a-f]{40}", commit())
    (package / "report.py").write_text("2")
    assert re.fullmatch("[0-9a-f]{40}-dirty", commit())


def test_the_worst_and_the_best_images_are_those_by_their_own_miou(net, dataset):
    result = evaluate(net, dataset)
    worst, best = worst_and_best(net, dataset, result, count=2)
    ranked = sorted(result.image_miou)
    assert [e.miou for e in worst] == ranked[:2] and [e.miou for e in best] == ranked[:1:-1]
    assert worst[0].name == dataset.images[result.image_miou.index(ranked[0])].name and {view.size for view in worst[0].views} == {
        (64, 48)
    }
    worst, best = worst_and_best(net, dataset, result, count=9)
    assert len(worst) == 5 and best == []  # no image twice


def test_examples_are_shrunk(net, dataset):
    Image.open(dataset.images[0]).resize((520, 390)).save(dataset.images[0])
    Image.open(dataset.masks[0]).resize((520, 390), Image.Resampling.NEAREST).save(dataset.masks[0])
    dataset.images, dataset.masks = dataset.images[:1], dataset.masks[:1]
    worst, _ = worst_and_best(net, dataset, evaluate(net, dataset))
    assert {view.size for view in worst[0].views} == {(360, 270)}


def test_errors_are_red_and_named():
    truth, prediction = np.array([[0, 0, 1], [1, 2, 255]]), np.array([[0, 1, 1], [2, 2, 0]])
    shown = module.errors_shown(np.full((2, 3, 3), 100, np.uint8), truth, prediction)
    red, ignored = (shown == (205, 30, 30)).all(2), (shown == 0).all(2)
    assert red.tolist() == [[False, True, False], [True, False, False]] and ignored.tolist() == [[False] * 3, [False, False, True]]
    assert module.confusions_of(truth, prediction, "abc") == ("a as b 20.0%", "b as c 20.0%")


class Tags(HTMLParser):
    """The tags of a page, whether they are closed, and what they refer to."""

    def __init__(self, page):
        super().__init__()
        self.open, self.all, self.sources = [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.all.add(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_is_well_formed(net, dataset):
    result = evaluate(net, dataset, details=True)
    numbers = {"model": "m", "dataset": "camvid", "split": "val", **report(result, net, dataset)}
    page = html_page(numbers, dataset.labels, *worst_and_best(net, dataset, result))
    tags = Tags(page)
    assert tags.open == [] and "script" not in tags.all and "link" not in tags.all and "url(" not in page
    assert len(tags.sources) == 20 and all(s.startswith("data:image/jpeg;base64,") for s in tags.sources)
    assert f"{result.details.ece:.4f}" in page and page.count("<circle") == len(result.details.reliability)
    assert "{:.4f} to {:.4f}".format(*result.details.intervals["miou"]) in page and "% of the pixels" in page
    assert f"{result.miou:.4f}" in page and "bicyclist" in page and numbers["weights_sha256"] in page
    assert page.count("<tr><th>") >= 2 * 11 and str(result.confusion[3][0]) in page


def test_names_from_outside_are_text_on_the_page(net, dataset):
    evil = "<script>alert('1')</script>\"&"
    names = (evil, *dataset.labels.names[1:])
    labels = Labels(names, dataset.labels.colors)
    net.labels = dataset.labels = labels
    dataset.images[0] = dataset.images[0].rename(dataset.images[0].with_name("<img src=x onerror=y>.png"))
    result = evaluate(net, dataset)
    numbers = {"model": evil, "dataset": evil, "split": evil, **report(result, net, dataset), "commit": evil}
    page = html_page(numbers, labels, *worst_and_best(net, dataset, result))
    tags = Tags(page)
    assert "script" not in tags.all and all(s.startswith("data:") for s in tags.sources) and tags.open == []
    assert "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&#34;&amp;" in page


def test_a_page_of_cityscapes_has_categories(net, dataset):
    numbers = report(evaluate(net, dataset), net, dataset)
    numbers |= {"category_iou": {"flat": 0.5, "sky": None}, "category_miou": 0.5, "confusion": np.eye(19, dtype=int).tolist()}
    numbers |= {key: dict.fromkeys(CITYSCAPES.names) for key in ("iou", "precision", "recall")}
    page = html_page(numbers, CITYSCAPES, [], [])
    assert "<h2>Categories</h2>" in page and "Worst" not in page and Tags(page).open == []


def test_predictions_are_indexed_images_named_after_the_images(dataset, tmp_path):
    mask = torch.randint(0, 11, (48, 64), dtype=torch.uint8)
    prediction_saver(dataset, tmp_path / "new" / "folder")(2, mask)
    with Image.open(tmp_path / "new" / "folder" / "002_mask.png") as saved:
        assert saved.mode == "P" and np.array_equal(np.array(saved), mask)


def test_predictions_for_cityscapes_are_label_ids(dataset, tmp_path):
    dataset.labels = CITYSCAPES
    dataset.images = [tmp_path / "bern_000000_000019_leftImg8bit.png"]
    prediction_saver(dataset, tmp_path / "out")(0, torch.arange(19, dtype=torch.uint8)[None])
    with Image.open(tmp_path / "out" / "bern_000000_000019_pred_labelIds.png") as saved:
        assert saved.mode == "L" and np.array(saved).tolist() == [list(CITYSCAPES.official_ids)]


def test_predictions_never_replace_a_file_of_the_dataset_or_each_other(dataset, tmp_path):
    with pytest.raises(ValueError, match="is a folder of the dataset"):
        prediction_saver(dataset, dataset.images[0].parent)
    dataset.images[1] = tmp_path / "elsewhere" / "000.jpg"
    with pytest.raises(ValueError, match=r"would both be '000_mask\.png'; rename one"):
        prediction_saver(dataset, tmp_path / "out")


def test_the_page_draws_the_curves_of_the_run_that_the_model_lies_in(net, camvid, tmp_path):
    dataset = open_dataset("camvid", camvid, "val")
    result = evaluate(net, dataset)
    numbers = {"model": "m", "dataset": "d", "split": "val", **report(result, net, dataset)}
    assert read_history(tmp_path / "model") == [] and "<svg" not in html_page(numbers, dataset.labels, [], [], [])
    text = "step,learning_rate,train_loss,loss,miou\n10,0.1,0.9,2.0,0.1\n20,0.1,0.7,1.0,0.3\n40,0.1,0.6,1.5,0.2\n"
    (tmp_path / "model").mkdir()
    (tmp_path / "history.csv").write_text(text)
    history = read_history(tmp_path / "model")
    assert history[0] == {"step": 10.0, "train_loss": 0.9, "loss": 2.0, "miou": 0.1}
    page = html_page(numbers, dataset.labels, [], [], history)
    assert page.count("<svg") == 3 and 'points="0.00,40.00 33.33,0.00 100.00,20.00"' in page
    assert "mIoU on val: 0.1000 to 0.3000, 0.2000 at the end" in page and "steps 10 to 40" in page
