"""The numbers that are published are of the checkpoint as it predicts now."""

import json

import pytest

from pspnet_zoo import WeightsError, from_pretrained
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.data.layouts.classes import parse_classes
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.evaluation.mapping import MappedDataset, MappedNetwork
from pspnet_zoo.evaluation.report import report
from pspnet_zoo.runtimes.open import open_runtime
from pspnet_zoo.storage.files import update_config
from pspnet_zoo.storage.publish import CARD_FILE, stage


def measured(network, dataset):
    """A report as `evaluate --json` writes it."""
    return {"dataset": "camvid", "split": "val", **report(evaluate(network, dataset), network, dataset)}


def published(folder, numbers):
    """The card of a checkpoint with these numbers beside it."""
    (folder / "report.json").write_text(json.dumps(numbers))
    stage(folder, folder / "staged", "my-org/tiny", load=from_pretrained)
    return (folder / "staged" / CARD_FILE).read_text()


@pytest.fixture
def numbers(tiny, camvid):
    return measured(tiny, open_dataset("camvid", camvid, "val"))


def test_a_report_of_the_checkpoint_is_published_with_or_without_the_keys_that_early_ones_lack(folder, numbers):
    assert (numbers["mapping"], numbers["threshold"], numbers["model_precision"]) == (None, None, "float32")
    assert f"{numbers['miou']:.4f}" in published(folder, numbers)
    early = {key: value for key, value in numbers.items() if key not in ("mapping", "threshold", "model_precision")}
    assert f"{numbers['miou']:.4f}" in published(folder, early)


def test_a_report_with_a_mapping_is_refused_though_the_weights_are_the_same(folder, camvid):
    same = parse_classes({"names": list(CAMVID.names)})
    numbers = measured(
        MappedNetwork(open_runtime(folder, device="cpu"), same), MappedDataset(open_dataset("camvid", camvid, "val"), same)
    )
    with pytest.raises(WeightsError, match="was measured with --mapping, so its numbers are not of the checkpoint's own classes"):
        published(folder, numbers)


@pytest.mark.parametrize("names", [CAMVID.names[::-1], ("thing", *CAMVID.names), CAMVID.names[:3]])
def test_a_report_of_other_classes_is_refused(folder, numbers, names):
    numbers = {**numbers, "iou": dict.fromkeys(names, 0.5)}
    with pytest.raises(WeightsError, match=f"has the classes {', '.join(names)}, and the checkpoint sky, building"):
        published(folder, numbers)


def test_a_report_at_another_threshold_than_the_stored_one_is_refused(tiny, camvid, tmp_path):
    two = parse_classes({"names": ["background", "road"], "mapping": {"background": [n for n in CAMVID.names if n != "road"]}})
    dataset = MappedDataset(open_dataset("camvid", camvid, "val"), two)
    tiny.reset_classifier(2)
    tiny.labels = two.labels
    folder, numbers = tiny.save_pretrained(tmp_path / "two"), measured(tiny, dataset)
    assert f"{numbers['miou']:.4f}" in published(folder, numbers)
    update_config(folder, threshold=0.2)
    with pytest.raises(WeightsError, match=r"with the threshold None, and config\.json has 0\.2\. Measure again"):
        published(folder, numbers)
    tiny.threshold = 0.2
    numbers = measured(tiny, dataset)
    assert numbers["threshold"] == 0.2 and f"{numbers['miou']:.4f}" in published(folder, numbers)
