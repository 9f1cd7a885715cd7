"""Other labels than the model's: probabilities are summed, masks translated, and nothing is mapped in silence."""

import json

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from pspnet_zoo import Labels, PSPNet
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.data.layouts.classes import parse_classes
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.evaluation.mapping import MappedDataset, MappedNetwork
from pspnet_zoo.inference.protocols import PROTOCOLS
from pspnet_zoo.inference.scores import class_ids, class_probabilities

VALUES = {
    "names": ["ground", "building", "thing"],
    "mapping": {"ground": ["road", "pavement"], "thing": ["car", "pedestrian", "bicyclist", "fence"]},
    "ignore": ["sky", "pole", "signsymbol", "tree"],
}
CLASSES = parse_classes(VALUES)
GROUPS = [
    [CAMVID.names.index(n) for n in names] for names in (VALUES["mapping"]["ground"], ["building"], VALUES["mapping"]["thing"])
]


@pytest.mark.parametrize("protocol", ["whole", "whole_ms"])
def test_a_class_has_the_sum_of_the_probabilities_of_those_that_become_it(net, protocol):
    image = torch.randint(0, 256, (1, 3, 33, 47), dtype=torch.uint8)
    single = class_probabilities(net.eval(), image, PROTOCOLS[protocol])
    summed = torch.stack([single[:, group].sum(1) for group in GROUPS], 1)
    mapped = class_probabilities(MappedNetwork(net, CLASSES), image, PROTOCOLS[protocol])
    if protocol == "whole":  # an average over scales is one of the probabilities that are left
        torch.testing.assert_close(mapped, summed / summed.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)
    assert mapped.shape == (1, 3, 33, 47) and torch.allclose(mapped.sum(1), torch.ones(1, 33, 47), atol=1e-5)


def test_the_numbers_are_those_of_mapped_predictions_and_masks(net, camvid):
    dataset, net = open_dataset("camvid", camvid, "val"), net.eval()
    result = evaluate(MappedNetwork(net, CLASSES), MappedDataset(dataset, CLASSES))
    ids, truth = [], []
    for image, mask in dataset:
        single = class_probabilities(net, image[None])[0]
        ids.append(torch.stack([single[group].sum(0) for group in GROUPS]).argmax(0))
        found = np.full(256, 255)
        for class_id, group in enumerate(GROUPS):
            found[group] = class_id
        truth.append(torch.from_numpy(found[np.asarray(mask)]))
    iou = multiclass_jaccard_index(torch.stack(ids), torch.stack(truth), 3, average="none", ignore_index=255)
    assert list(result.iou) == ["ground", "building", "thing"]
    assert [v or 0 for v in result.iou.values()] == pytest.approx(iou.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ignore": ["sky"]}, "The mapping does not mention 'pole', 'tree', 'signsymbol' of the model"),
        ({"names": ["ground", "building", "thing", "sofa"]}, "No class of the model becomes 'sofa'"),
    ],
)
def test_what_the_mapping_leaves_open_is_refused(net, values, words):
    with pytest.raises(ValueError, match=words):
        MappedNetwork(net, parse_classes(VALUES | values))


def test_the_command_measures_on_the_mapped_classes(net, camvid, tmp_path):
    from typer.testing import CliRunner

    from pspnet_zoo.cli.app import app

    (tmp_path / "mapping.json").write_text(json.dumps(VALUES))
    model = net.save_pretrained(tmp_path / "model")
    options = ["--data", str(camvid), "--mapping", str(tmp_path / "mapping.json"), "--json", str(tmp_path / "report.json")]
    result = CliRunner().invoke(app, ["evaluate", str(model), *options])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["iou"]) == {"ground", "building", "thing"} and len(report["weights_sha256"]) == 64
    assert report["mapping"]["mapping"] == {name: sorted(group) for name, group in VALUES["mapping"].items()}


TWO = Labels(("background", "nucleus"))


@pytest.fixture
def two_classes():
    network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8).eval()
    network.labels, network.threshold = TWO, 0.2
    return network


def test_the_threshold_is_kept_where_the_models_classes_stay_as_they_are(two_classes, caplog):
    two_classes.segmentation_head[0].weight.data *= 30
    classes = parse_classes({"names": ["background", "nucleus"], "ignore": ["membrane"]})  # the dataset has one class more
    image = torch.randint(0, 256, (1, 3, 33, 47), dtype=torch.uint8)
    probability = class_probabilities(two_classes, image)[:, 1]
    ids = class_ids(MappedNetwork(two_classes, classes), image)
    assert torch.equal(ids, (probability > 0.2).long()) and ((probability > 0.2) & (probability < 0.5)).any() and not caplog.text


def test_a_threshold_that_is_not_used_is_warned_of(two_classes, caplog, capsys):
    swapped = parse_classes({"names": ["thing", "other"], "mapping": {"thing": ["nucleus"], "other": ["background"]}})
    assert MappedNetwork(two_classes, swapped).threshold is None
    said = caplog.text or capsys.readouterr().err  # where commands ran before, their handler writes it too
    assert "the model's threshold 0.2 is of its own classes" in said and said.count("Warning") == 1


def test_a_model_that_gives_ids_alone_has_no_loss_with_a_mapping_either(net, camvid):
    ids = PSPNet(**{**net.config, "activation": "argmax", "encoder_weights": None}).eval()
    ids.load_state_dict(net.state_dict())
    ids.labels, ids.preprocess = net.labels, net.preprocess
    dataset = MappedDataset(open_dataset("camvid", camvid, "val"), CLASSES)
    losses = [evaluate(MappedNetwork(each, CLASSES), dataset).loss for each in (ids, net.eval())]
    assert losses[0] is None and losses[1] > 0


def test_equal_mappings_in_another_order_are_recorded_alike_and_others_are_not(net):
    mapping = {name: group[::-1] for name, group in reversed(VALUES["mapping"].items())}
    same = MappedNetwork(net, parse_classes({**VALUES, "mapping": mapping, "ignore": VALUES["ignore"][::-1]})).mapping
    assert same == MappedNetwork(net, CLASSES).mapping == json.loads(json.dumps(same)) and same["names"] == VALUES["names"]
    moved = {"ground": ["road"], "thing": [*VALUES["mapping"]["thing"], "pavement"]}
    assert MappedNetwork(net, parse_classes({**VALUES, "mapping": moved})).mapping != same
