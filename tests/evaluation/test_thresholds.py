"""Two-class networks: metrics of others, and thresholds."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from pspnet_zoo import Labels, Predictor, PSPNet
from pspnet_zoo.data.dataset import CheckedDataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.evaluation.metrics import ConfusionMatrix
from pspnet_zoo.evaluation.thresholds import dice_by_threshold, histogram, tune_threshold
from pspnet_zoo.inference.scores import class_probabilities
from pspnet_zoo.storage.errors import WeightsError
from pspnet_zoo.storage.files import update_config


@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_equal_those_of_torchmetrics_and_scikit_learn(classes):
    truth, prediction = torch.randint(0, classes, (2, 4, 31, 17))
    truth[0, :5] = 255
    matrix, counted = ConfusionMatrix(classes), truth != 255
    matrix.update(prediction, truth)
    flat = truth[counted].numpy(), prediction[counted].numpy()
    np.testing.assert_allclose(matrix.precision, precision_score(*flat, average=None), atol=1e-6)
    np.testing.assert_allclose(matrix.recall, recall_score(*flat, average=None), atol=1e-6)
    np.testing.assert_allclose(matrix.dice, f1_score(*flat, average=None), atol=1e-6)
    options = {"num_classes": classes, "ignore_index": 255, "average": "none"}
    np.testing.assert_allclose(matrix.dice, multiclass_f1_score(prediction, truth, **options), atol=1e-6)
    np.testing.assert_allclose(matrix.iou, multiclass_jaccard_index(prediction, truth, **options), atol=1e-6)


def test_the_histogram_gives_the_dice_of_every_threshold():
    probability, truth = torch.rand(500), torch.randint(0, 2, (500,))
    probability[:3] = torch.tensor([0.25, 0.5, 1.0])  # at a threshold is not above it
    truth[9] = 255
    dice, counted = dice_by_threshold(histogram(probability, truth)), truth != 255
    for step in (1, 49, 50, 100, 199):
        wanted = f1_score(truth[counted], (probability > step / 200)[counted])
        assert dice[step - 1] == pytest.approx(wanted, abs=1e-12)


def binary(classes):
    network = PSPNet("test_efficientnet", None, classes=classes, psp_out_channels=8).eval()
    network.segmentation_head[0].weight.data *= 100
    network.labels = Labels(("background", "nucleus"))
    return network


def dataset_of(network, threshold):
    """Images whose masks are what the network gives at a threshold."""
    images = torch.randint(0, 256, (2, 3, 33, 65), dtype=torch.uint8)
    masks = (class_probabilities(network, images)[:, 1] > threshold).to(torch.uint8)
    return CheckedDataset(list(zip(images, masks, strict=True)), labels=network.labels)


@pytest.mark.parametrize("classes", [1, 2])
def test_the_threshold_is_found_stored_and_obeyed(classes, tmp_path):
    network = binary(classes)
    wanted = class_probabilities(network, torch.randint(0, 256, (1, 3, 33, 65), dtype=torch.uint8))[:, 1].quantile(0.7).item()
    dataset = dataset_of(network, round(wanted * 200) / 200)
    assert evaluate(network, dataset).dice["nucleus"] < 1
    found = tune_threshold(network, dataset)
    assert found.dice == 1 > found.dice_of_half and found.threshold == pytest.approx(wanted, abs=0.02)
    network.threshold = found.threshold
    assert evaluate(network, dataset).dice["nucleus"] == 1
    loaded = PSPNet.from_pretrained(network.save_pretrained(tmp_path / "model"))
    assert loaded.threshold == found.threshold
    image, mask = dataset[0]
    assert (Predictor(loaded)(image.as_subclass(torch.Tensor)).mask == mask.numpy()).all()
    assert loaded.reset_classifier(2) and loaded.threshold is None


def test_old_files_have_no_threshold_and_wrong_ones_are_refused(tmp_path):
    folder = binary(2).save_pretrained(tmp_path / "model")
    assert "threshold" not in (folder / "config.json").read_text() and PSPNet.from_pretrained(folder).threshold is None
    for wrong in (0, 1.5, "0.5", True):
        update_config(folder, threshold=wrong)
        with pytest.raises(WeightsError, match="it must be between 0 and 1"):
            PSPNet.from_pretrained(folder)


def test_a_threshold_is_for_two_classes(net, camvid):
    net.threshold = 0.3
    with pytest.raises(ValueError, match="for two classes"):
        Predictor(net)(torch.zeros(3, 33, 65, dtype=torch.uint8))
    with pytest.raises(ValueError, match="for two classes"):
        net.save_pretrained(camvid / "model")
    with pytest.raises(ValueError, match="for two classes"):
        tune_threshold(net, [])
