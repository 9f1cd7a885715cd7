"""What to label next."""

import csv
import gc
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import entropy

from pspnet_zoo import Labels, PSPNet, export
from pspnet_zoo.evaluation import ranking
from pspnet_zoo.evaluation.ranking import Uncertainty, features_of, rank, uncertainty_of
from pspnet_zoo.inference.scores import class_ids, class_probabilities


def test_uncertainty_is_that_of_the_probabilities(net):
    net.segmentation_head[0].weight.data *= 30
    image = torch.randint(0, 256, (3, 33, 65), dtype=torch.uint8)
    found, ids = uncertainty_of(net, image)
    probabilities = class_probabilities(net, image[None])[0].numpy()
    assert found.entropy == pytest.approx(entropy(probabilities, axis=0).mean() / np.log(11), rel=1e-4)
    ordered = np.sort(probabilities, axis=0)
    assert found.margin == pytest.approx((1 - (ordered[-1] - ordered[-2])).mean(), rel=1e-4)
    mirrored = class_ids(net, image[None].flip(-1)).flip(-1)
    assert found.disagreement == (ids != mirrored[0]).double().mean() > 0


def test_the_unsure_and_the_new_come_first():
    sure, unsure = Uncertainty(0.1, 0.1, 0.1), Uncertainty(0.9, 0.9, 0.9)
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.01], [0, 1], [1, 0.02]]), dim=1)
    assert rank([sure, unsure, sure, sure], features, by="uncertainty")[0] == (1, None)
    assert rank([sure] * 4, features, features[:1], by="novelty")[0][0] == 2
    order = rank([unsure, unsure, sure, unsure], features, features[:1])
    assert order[0][0] == 2 and order[0][1] == pytest.approx(1)  # the others are as the one with labels
    assert sorted(i for i, _ in order) == [0, 1, 2, 3]
    assert order[1][1] < 0.01  # once chosen, its likes are not new
    with pytest.raises(ValueError, match="an exported file has none"):
        rank([sure], None, by="novelty")


def test_features_have_length_one_whatever_the_size(net):
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8).repeat(1, 8, 8)
    small, large = (features_of(net.eval(), image[..., :s, :s]) for s in (32, 64))
    assert small.norm() == pytest.approx(1) and small @ large > 0.9


@pytest.fixture
def photos(tmp_path):
    for name, color in (("a", 10), ("b", 10), ("c", 200)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        noise = np.random.default_rng(ord(name)).integers(0, 50, (33, 65, 3), np.uint8)
        Image.fromarray(noise + np.uint8(color)).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"")
    return tmp_path / "photos"


def test_the_command_writes_a_table_and_a_sheet(run, net, photos, tmp_path):
    model = net.save_pretrained(tmp_path / "model")
    code, text, err = run("rank", photos, "-o", tmp_path / "ranking.csv", "--model", model)
    rows = list(csv.DictReader((tmp_path / "ranking.csv").read_text().splitlines()))
    assert code == 2 and "broken.png" in err and "Ranked 3 images" in text
    assert [row["rank"] for row in rows] == ["1", "2", "3"] and {row["path"][-5:] for row in rows} == {"a.png", "b.png", "c.png"}
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in ("entropy", "margin", "disagreement", "novelty"))
    with Image.open(tmp_path / "ranking.png") as sheet:
        assert sheet.width == 3 * 320


def test_images_below_and_images_with_labels_count(run, net, photos, tmp_path):
    model, output = net.save_pretrained(tmp_path / "model"), tmp_path / "ranking.csv"
    (photos / "broken.png").unlink()
    command = ("rank", tmp_path, "-o", output, "--model", model, "--recursive")
    assert run(*command)[0] == 0
    assert sum("photos" in row["path"] for row in csv.DictReader(output.read_text().splitlines())) == 3
    (photos / "labelled").mkdir()
    (photos / "c.png").rename(photos / "labelled" / "c.png")
    run("rank", photos, "-o", output, "--model", model, "--labelled", photos / "labelled", "--by", "novelty")
    rows = list(csv.DictReader(output.read_text().splitlines()))
    run("rank", photos, "-o", output, "--model", model, "--by", "novelty")
    assert len(rows) == 2 and rows != list(csv.DictReader(output.read_text().splitlines()))


@pytest.mark.parametrize(
    "arguments, message",
    [(("-o", "a.txt"), "does not end in .csv"), (("-o", "a.csv", "--by", "uncertainty", "--labelled", "."), "is for novelty")],
)
def test_options_that_change_nothing_are_refused(run, photos, arguments, message):
    code, _, err = run("rank", photos, *arguments)
    assert code == 2 and message in err


def test_ranks_are_those_of_all_pairs_and_take_no_memory_for_them():
    values = torch.randint(0, 50, (200, 3), generator=torch.Generator().manual_seed(0)).double() / 50  # with many ties
    by_pairs = (values[:, None] >= values[None]).double().mean(1).mean(1)
    assert torch.equal(ranking._mean_rank([Uncertainty(*row) for row in values.tolist()]), by_pairs)
    many = [Uncertainty(i / 200_000, 0, 0) for i in range(200_000)]  # pairs would take 120 GB
    assert ranking._mean_rank(many)[-1] == 1


def test_the_mask_of_an_image_is_not_kept_while_others_are_read(run, net, photos, tmp_path, monkeypatch):
    model, kept = net.save_pretrained(tmp_path / "model"), []

    def uncertainty(*arguments):
        kept.append(sum(type(each) is torch.Tensor and each.shape == (33, 65) for each in gc.get_objects()))
        return uncertainty_of(*arguments)

    monkeypatch.setattr(ranking, "uncertainty_of", uncertainty)
    _, text, err = run("rank", photos, "-o", tmp_path / "ranking.csv", "--model", model)
    assert "Ranked 3 images" in text and kept == [kept[0]] * 3, err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "b.png' needs more memory than there is"),
        (torch.OutOfMemoryError("CUDA out of memory"), "b.png' needs more memory than there is"),
        (FloatingPointError("The model's scores are NaN"), "b.png' cannot be ranked: The model's scores are NaN"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_image_that_fails_in_the_network_is_named_and_the_others_are_ranked(
    run, net, photos, tmp_path, monkeypatch, error, message
):
    model, output = net.save_pretrained(tmp_path / "model"), tmp_path / "ranking.csv"
    (photos / "broken.png").unlink()
    with Image.open(photos / "b.png") as second:
        wanted = torch.from_numpy(np.array(second)).permute(2, 0, 1)

    def uncertainty(runtime, image):
        if torch.equal(image, wanted):
            raise error
        return uncertainty_of(runtime, image)

    monkeypatch.setattr(ranking, "uncertainty_of", uncertainty)
    code, _, err = run("rank", photos, "-o", output, "--model", model)
    assert code == 2 and message in err and err.count("Error") == 1
    assert [row["path"][-5:] for row in csv.DictReader(output.read_text().splitlines())] in (["a.png", "c.png"], ["c.png", "a.png"])


def test_the_contact_sheet_of_an_earlier_ranking_is_not_ranked(run, net, photos, tmp_path):
    model = net.save_pretrained(tmp_path / "model")
    (photos / "broken.png").unlink()
    command = ("rank", photos, "-o", photos / "ranking.csv", "--model", model, "--by", "uncertainty")
    assert run(*command)[0] == 0
    first = (photos / "ranking.csv").read_text()
    code, text, _ = run(*command)
    assert code == 0 and "Ranked 3 images" in text and (photos / "ranking.csv").read_text() == first


def test_a_contact_sheet_never_replaces_an_image(run, net, photos, tmp_path):
    model, before = net.save_pretrained(tmp_path / "model"), (photos / "a.png").read_bytes()
    code, _, err = run("rank", photos, "-o", photos / "a.csv", "--model", model)
    assert code == 2 and "a.png', which 'pspnet-zoo rank' did not write. Give --output another name" in err
    assert (photos / "a.png").read_bytes() == before and not (photos / "a.csv").exists()


@pytest.mark.parametrize("by", [(), pytest.param(("--by", "novelty"), marks=pytest.mark.slow)], ids=["both", "novelty"])
def test_novelty_by_an_exported_file_is_refused_before_an_image_is_read(run, net, photos, tmp_path, by):
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    file = export(net, tmp_path / "street.onnx")
    code, text, err = run("rank", photos, "-o", tmp_path / "ranking.csv", "--model", file, *by)
    assert code == 2 and "which needs the features of a network, and an exported file has none; use 'uncertainty'" in err
    assert "broken.png" not in err and err.count("Error") == 1 and not (tmp_path / "ranking.csv").exists()
    code, text, err = run("rank", photos, "-o", tmp_path / "ranking.csv", "--model", file, "--by", "uncertainty")
    assert "Ranked 3 images" in text, err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names of files are Unicode")
def test_an_image_whose_name_is_not_unicode_is_ranked_under_its_own_name(run, net, photos, tmp_path):
    model, output = net.save_pretrained(tmp_path / "model"), tmp_path / "ranking.csv"
    (photos / "broken.png").unlink()
    os.rename(photos / "a.png", os.fsencode(photos) + b"/a\xff.png")
    code, text, err = run("rank", photos, "-o", output, "--model", model)
    assert code == 0 and "Ranked 3 images" in text, err
    assert output.read_bytes().count(b"/a\xff.png,") == 1 and output.with_suffix(".png").is_file()


@pytest.mark.parametrize("by", ["both", "uncertainty"])
def test_a_file_that_gives_ids_is_refused_before_an_image_is_read(run, ids_file, photos, tmp_path, by):
    code, _, err = run("rank", photos, "-o", tmp_path / "ranking.csv", "--model", ids_file, "--by", by)
    assert code == 2 and "gives ids and no probabilities" in err and "export that with --output logits" in err
    assert "broken.png" not in err and err.count("Error") == 1 and not (tmp_path / "ranking.csv").exists()


@pytest.fixture(scope="module")
def ids_file(tmp_path_factory):
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    network = PSPNet("test_efficientnet", None, classes=3, psp_out_channels=16)
    network.labels = Labels(("road", "sky", "car"))
    return export(network, tmp_path_factory.mktemp("ids") / "street.onnx", output="ids")
