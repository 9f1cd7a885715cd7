"""The confusion matrix against a count by hand."""

import math

import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from pspnet_zoo.evaluation.metrics import ConfusionMatrix


def by_sets(prediction, truth, classes):
    """IoU by its definition, over sets of pixels."""
    ious = []
    for c in range(classes):
        predicted = {i for i, (p, t) in enumerate(zip(prediction, truth, strict=True)) if p == c and t != 255}
        true = {i for i, t in enumerate(truth) if t == c}
        ious.append(len(predicted & true) / len(predicted | true) if predicted | true else math.nan)
    return ious


def test_iou_is_that_of_sets_over_the_whole_dataset():
    truth = torch.randint(0, 5, (4, 30))
    truth[truth == 3] = 255  # class 3 never occurs
    prediction = torch.randint(0, 3, (4, 30))
    matrix = ConfusionMatrix(5)
    for t, p in zip(truth, prediction, strict=True):
        matrix.update(p, t)
    expected = by_sets(prediction.flatten().tolist(), truth.flatten().tolist(), 5)
    torch.testing.assert_close(matrix.iou, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    present = [v for v in expected if not math.isnan(v)]
    assert math.isnan(expected[3]) and matrix.miou == pytest.approx(sum(present) / len(present))
    counted = truth != 255
    assert matrix.pixel_accuracy == pytest.approx((prediction == truth)[counted].float().mean().item())


def test_it_is_not_the_mean_over_images():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
    matrix.update(torch.tensor([1]), torch.tensor([1]))
    assert matrix.iou.tolist() == [3 / 4, 1 / 2]


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [([0, 1], [0], "must be equal"), ([2], [0], "prediction holds ids from 2 to 2"), ([0], [9], "truth holds ids from 9 to 9")],
)
def test_what_cannot_be_counted_is_refused(prediction, truth, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(2).update(torch.tensor(prediction), torch.tensor(truth))


def test_nothing_counted_gives_nan():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0]), torch.tensor([255]))
    assert math.isnan(matrix.pixel_accuracy) and math.isnan(matrix.miou)


def test_it_is_torchmetrics_matrix():
    prediction, truth = torch.randint(0, 5, (2, 3, 40, 50))
    truth[torch.rand(truth.shape) < 0.2] = 255
    truth[truth == 3] = 1  # absent
    theirs = MulticlassConfusionMatrix(5, ignore_index=255)
    ours = ConfusionMatrix(5)
    for p, t in zip(prediction, truth, strict=True):
        ours.update(p, t)
        theirs.update(p, t)
    assert torch.equal(ours.counts, theirs.compute())


def test_mean_accuracy_is_the_mean_of_what_was_found_of_each_class_that_occurs():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 0, 0, 0, 1]))
    assert matrix.mean_accuracy == (3 / 4 + 0) / 2


def test_in_groups_a_class_taken_for_its_neighbour_is_right():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([1, 0, 2, 0]), torch.tensor([0, 1, 2, 2]))
    assert matrix.merged([(0, 1), (2,)]).counts.tolist() == [[2, 0], [1, 1]]
