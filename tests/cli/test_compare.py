"""Two reports on the same images."""

import copy
import json

import pytest
import torch

from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.compare import compare_reports, counts_of
from pspnet_zoo.evaluation.details import measures, resampled
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.evaluation.report import report


@pytest.fixture
def reports(net, camvid):
    """Of a network before and after a change, as JSON."""
    dataset, found = open_dataset("camvid", camvid, "train"), []
    for _ in range(2):
        net.segmentation_head[0].weight.data.normal_()
        result = evaluate(net, dataset, details=True)
        found.append(json.loads(json.dumps({"split": "train", **report(result, net, dataset)})))
        assert torch.equal(counts_of(found[-1], 11), result.details.counts)
    return found


def test_differences_are_paired_over_the_same_samples(reports):
    first, second = reports
    found = {each.name: each for each in compare_reports(first, second).measures}
    assert found["miou"].change == second["miou"] - first["miou"] and found["loss"].interval is None
    change = torch.sub(*(measures(resampled(counts_of(r, 11)))["miou"] for r in (second, first)))
    assert found["miou"].interval == pytest.approx(change.quantile(torch.tensor([0.025, 0.975]).double()).tolist())
    same = compare_reports(first, first)
    assert all(each.change in (0, None) and each.interval in ((0, 0), None) for each in same.measures + same.classes)
    changes = [each.change for each in compare_reports(first, second).images]
    assert changes == sorted(changes) and len(changes) == 5


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("data_sha256", "0", "differ in their images"),
        ("protocol", "other", "differ in their protocol"),
        ("mapping", {"names": ["sky"]}, "differ in their mapping: None and"),
        ("iou", {}, "other classes"),
    ],
)
def test_reports_of_other_things_are_refused(reports, key, value, message):
    other = copy.deepcopy(reports[1])
    other[key] = value
    with pytest.raises(ValueError, match=message):
        compare_reports(reports[0], other)
    with pytest.raises(ValueError, match="no report with counts"):
        compare_reports(reports[0], {})


def test_the_command_prints_the_differences(run, reports, tmp_path):
    for name, values in zip("ab", reports, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    code, text, _ = run("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0 and f"{reports[1]['miou'] - reports[0]['miou']:+.4f}" in text and "bicyclist" in text
    (tmp_path / "a.json").write_text("{")
    code, _, err = run("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 2 and "is no report" in err


def test_reports_from_before_the_mapping_was_recorded_and_with_nan_are_compared(run, reports, tmp_path):
    assert reports[0].pop("mapping", 0) is None and reports[1]["mapping"] is None
    for name, values in zip("ab", reports, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps({**values, "mean_boundary_f1": float("nan")}))
    code, text, _ = run("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0 and "nan" not in text
