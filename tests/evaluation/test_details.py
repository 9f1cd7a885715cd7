"""Boundaries, calibration and intervals, against other ways to compute them."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.details import RESAMPLES, TOLERANCE, bootstrap, boundary_counts, boundary_f1, measures
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.inference.scores import class_probabilities


def boundary_f1_by_distances(prediction, truth, class_id):
    """Every pair of boundary pixels, one by one."""
    height, width = truth.shape
    prediction = np.where(truth == 255, 255, prediction)

    def boundary(ids):
        found = []
        for y in range(height):
            for x in range(width):
                beside = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
                values = [ids[b] for b in beside if 0 <= b[0] < height and 0 <= b[1] < width]
                if ids[y, x] == class_id and any(v not in (class_id, 255) for v in values):
                    found.append((y, x))
        return np.array(found).reshape(-1, 2)

    mine, theirs = boundary(prediction), boundary(truth)
    if not len(mine) and not len(theirs):
        return np.nan
    if not len(mine) or not len(theirs):
        return 0.0
    near = np.abs(mine[:, None] - theirs[None]).max(2) <= max(round(TOLERANCE * np.hypot(height, width)), 1)
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_boundary_f1_is_that_of_all_pairs_of_pixels(seed, monkeypatch):
    monkeypatch.setattr("pspnet_zoo.evaluation.details.TOLERANCE", TOLERANCE * 4)
    monkeypatch.setitem(globals(), "TOLERANCE", TOLERANCE * 4)
    random = np.random.default_rng(seed)
    prediction, truth = (random.choice(4, (5, 7), p=[0.6, 0.2, 0.2, 0]).repeat(6, 0).repeat(7, 1) for _ in range(2))
    truth[random.random(truth.shape) < 0.02] = 255
    found = boundary_f1(boundary_counts(torch.from_numpy(prediction), torch.from_numpy(truth), 4)).numpy()
    np.testing.assert_allclose(found, [boundary_f1_by_distances(prediction, truth, c) for c in range(4)], atol=1e-12)
    assert 0 < found[0] < 1 and np.isnan(found[3])


def test_details_of_a_dataset(net, camvid):
    net.segmentation_head[0].weight.data *= 100  # surer than an untrained network
    dataset = open_dataset("camvid", camvid, "val")
    result = evaluate(net, dataset, details=True)
    assert evaluate(net, dataset).details is None
    details = result.details
    probabilities = torch.cat([class_probabilities(net, dataset[i][0][None]) for i in range(3)])
    truth = torch.stack([dataset[i][1].as_subclass(torch.Tensor).long() for i in range(3)])
    flat = probabilities.double().movedim(1, -1).reshape(-1, 11)
    theirs = multiclass_calibration_error(flat, truth.flatten(), 11, n_bins=15, norm="l1", ignore_index=255)
    assert details.ece == pytest.approx(theirs.item(), abs=1e-6) and details.ece > 0
    assert sum(b["pixels"] for b in details.reliability) == (truth != 255).sum()
    total = details.counts.sum(0)
    assert measures(total)["miou"].item() == pytest.approx(result.miou)
    assert total[:, 2].tolist() == [sum(row) for row in result.confusion]
    low, high = details.intervals["miou"]
    assert low <= result.miou <= high and details.iou_intervals.keys() == result.iou.keys()


def test_the_interval_is_that_of_samples_of_whole_images():
    counts = torch.randint(1, 9, (12, 3, 3))
    counts[..., 1:] += counts[..., :1]
    random = np.random.default_rng(1)
    drawn = counts.numpy()[random.integers(0, 12, (4 * RESAMPLES, 12))].sum(1)
    iou = (drawn[..., 0] / (drawn[..., 1] + drawn[..., 2] - drawn[..., 0])).mean(1)
    np.testing.assert_allclose(bootstrap(counts)[0]["miou"], np.quantile(iou, [0.025, 0.975]), atol=0.01)
    assert bootstrap(counts) == bootstrap(counts)
