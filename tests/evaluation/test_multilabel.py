"""Several classes a pixel: measures equal those of other libraries, and thresholds are the best ones."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, precision_recall_fscore_support
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.classification import MultilabelF1Score, MultilabelJaccardIndex, MultilabelPrecision, MultilabelRecall

from pspnet_zoo import Labels, PSPNet
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.compare import compare_reports
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.evaluation.mapping import MappedNetwork
from pspnet_zoo.evaluation.metrics import ConfusionMatrix
from pspnet_zoo.evaluation.report import report
from pspnet_zoo.evaluation.thresholds import tune_threshold
from pspnet_zoo.inference.protocols import PROTOCOLS, InferenceProtocol
from pspnet_zoo.inference.scores import class_ids, class_probabilities, class_scores


def test_measures_are_those_of_torchmetrics_and_scikit_learn():
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 2, (6, 4, 20, 30), generator=random)
    truth[torch.rand(truth.shape, generator=random) < 0.1] = 255
    prediction = torch.rand(truth.shape, generator=random) > torch.tensor([0.1, 0.4, 0.6, 0.9]).view(4, 1, 1)
    matrix = ConfusionMatrix(4, multilabel=True)
    for one, other in zip(prediction, truth, strict=True):
        matrix.update(one, other)
    theirs = {
        "iou": MultilabelJaccardIndex(4, average=None, ignore_index=255),
        "dice": MultilabelF1Score(4, average=None, ignore_index=255),
        "precision": MultilabelPrecision(4, average=None, ignore_index=255),
        "recall": MultilabelRecall(4, average=None, ignore_index=255),
    }
    for name, metric in theirs.items():
        expected = metric(prediction.movedim(1, -1).reshape(-1, 4).int(), truth.movedim(1, -1).reshape(-1, 4)).double()
        torch.testing.assert_close(getattr(matrix, name), expected, rtol=0, atol=1e-6)
    for k in range(4):
        counted = truth[:, k] != 255
        pair = truth[:, k][counted].numpy(), prediction[:, k][counted].numpy()
        expected = [*precision_recall_fscore_support(*pair, average="binary")[:3], jaccard_score(*pair)]
        ours = [getattr(matrix, name)[k].item() for name in ("precision", "recall", "dice", "iou")]
        assert ours == pytest.approx(expected, abs=1e-6)
    assert matrix.pixel_accuracy == pytest.approx((prediction == truth)[truth != 255].double().mean().item())


SEMSEG = InferenceProtocol(source="test", crop=(48, 48), stride=(32, 32), scales=(0.75, 1.0), flip=True, merging="semseg")


@pytest.mark.parametrize("protocol", [PROTOCOLS["whole"], PROTOCOLS["whole_ms"], SEMSEG], ids=["whole", "ms", "semseg"])
def test_evaluation_decides_each_class_by_its_own_threshold(multilabel_net, circles, protocol):
    dataset, multilabel_net.threshold = open_dataset("folder", circles, "val"), (0.3, 0.5, 0.6)
    found = evaluate(multilabel_net, dataset, protocol)
    probabilities = torch.cat([class_probabilities(multilabel_net, image[None], protocol) for image, _ in dataset])
    truth = torch.stack([mask for _, mask in dataset])
    for k, name in enumerate(("red", "green", "blue")):
        predicted, counted = probabilities[:, k] > (0.3, 0.5, 0.6)[k], truth[:, k] != 255
        both = (predicted & (truth[:, k] == 1))[counted].sum().item()
        either = (predicted | (truth[:, k] == 1))[counted].sum().item()
        assert found.iou[name] == pytest.approx(both / either)
    counted = truth != 255
    scores = torch.cat([class_scores(multilabel_net, image[None], protocol) for image, _ in dataset])
    assert found.loss == pytest.approx(binary_cross_entropy_with_logits(scores[counted], truth[counted].float()).item(), rel=1e-5)
    assert found.pixel_accuracy == pytest.approx(
        ((probabilities > torch.tensor((0.3, 0.5, 0.6)).view(3, 1, 1)) == truth)[counted].double().mean().item(), abs=1e-5
    )


def test_scores_of_averaged_probabilities_are_their_log_odds(multilabel_net):
    image = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    views = [multilabel_net.eval()(multilabel_net.preprocess(x)).sigmoid() for x in (image, image.flip(-1))]
    flip = InferenceProtocol(source="test", flip=True)
    expected = (views[0] + views[1].flip(-1)) / 2
    torch.testing.assert_close(class_probabilities(multilabel_net, image, flip), expected.detach(), rtol=1e-4, atol=1e-6)


def test_the_thresholds_are_the_best_of_each_class(multilabel_net, circles):
    dataset = open_dataset("folder", circles, "val")
    found = tune_threshold(multilabel_net, dataset)
    probabilities = torch.cat([class_probabilities(multilabel_net, image[None]) for image, _ in dataset])
    truth = torch.stack([mask for _, mask in dataset])
    best = []
    for k in range(3):
        counted = truth[:, k] != 255
        own, true = probabilities[:, k][counted], truth[:, k][counted] == 1
        dice = [2 * ((own > t) & true).sum().item() / ((own > t).sum() + true.sum()).item() for t in np.arange(1, 200) / 200]
        best.append(max(dice))
        assert dice[round(found.threshold[k] * 200) - 1] == pytest.approx(max(dice))
    assert found.dice == pytest.approx(sum(best) / 3)
    multilabel_net.threshold = found.threshold
    assert sum(evaluate(multilabel_net, dataset).dice.values()) / 3 == pytest.approx(found.dice)


def test_a_class_without_pixels_keeps_half(multilabel_net, circles):
    multilabel_net = PSPNet("test_efficientnet", None, classes=4, psp_out_channels=16, multilabel=True)
    classes = json.loads((circles / "classes.json").read_text())
    images = open_dataset("folder", circles, "val")

    class More(torch.utils.data.Dataset):
        labels = Labels((*classes["names"], "none"), multilabel=True)

        def __len__(self):
            return 2

        def __getitem__(self, index):
            image, mask = images[index]
            return image, torch.cat([mask, torch.zeros_like(mask[:1])])

    assert tune_threshold(multilabel_net, More()).threshold[3] == 0.5


def test_details_are_of_each_class_as_a_task_of_two(multilabel_net, circles):
    dataset = open_dataset("folder", circles, "val")
    details = evaluate(multilabel_net, dataset, details=True).details
    binary = PSPNet("test_efficientnet", None, classes=1, psp_out_channels=16, aux_head=True)
    state = multilabel_net.state_dict()
    for key in [key for key in state if key.startswith(("segmentation_head.0.", "auxiliary_head.0.4."))]:
        state[key] = state[key][1:2]
    binary.load_state_dict(state)

    class Green(torch.utils.data.Dataset):
        labels = Labels(("none", "green"))

        def __len__(self):
            return len(dataset)

        def __getitem__(self, index):
            return dataset[index][0], dataset[index][1][1]

    alone = evaluate(binary, Green(), details=True)
    assert details.boundary_f1["green"] == pytest.approx(alone.details.boundary_f1["green"])
    assert details.iou_intervals["green"] == pytest.approx(alone.details.iou_intervals["green"])
    assert "pixel_accuracy" not in details.intervals and 0 <= details.ece <= 1
    assert sum(bin["pixels"] for bin in details.reliability) == (torch.stack([m for _, m in dataset]) != 255).sum()


def test_reports_are_compared(multilabel_net, circles):
    dataset = open_dataset("folder", circles, "val")
    made = [{**report(evaluate(multilabel_net, dataset, details=True), multilabel_net, dataset), "split": "val"} for _ in range(2)]
    compared = compare_reports(*json.loads(json.dumps(made)))
    assert {m.name: m.interval for m in compared.measures}["pixel_accuracy"] is None
    assert all(m.change == 0 for m in compared.measures)


def test_a_dataset_of_the_other_kind_is_refused(multilabel_net, net, circles, camvid):
    with pytest.raises(ValueError, match=r"model gives one class a pixel and the dataset has several .* multilabel=True"):
        evaluate(net, open_dataset("folder", circles, "val"))
    with pytest.raises(ValueError, match=r"model gives several .* use a model that was built with multilabel=False"):
        evaluate(multilabel_net, open_dataset("camvid", camvid, "val"))
    with pytest.raises(ValueError, match="A mapping sums probabilities .* measure its own classes, without a mapping"):
        MappedNetwork(multilabel_net, None)


def test_class_ids_are_masks_of_each_class(multilabel_net):
    image = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    logits = multilabel_net.predict(multilabel_net.preprocess(image))
    found = class_ids(multilabel_net, image)
    assert found.dtype == torch.bool and torch.equal(found, logits > 0)
