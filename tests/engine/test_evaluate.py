"""Evaluation of a network on a data set."""

import pytest
import torch
from torch.nn import functional as F

from pspnet_zoo import PSPNet
from pspnet_zoo.data.camvid import CamVid
from pspnet_zoo.data.labels import CAMVID, Labels
from pspnet_zoo.engine.evaluate import evaluate


def test_numbers_are_those_of_every_pixel_at_once(net, camvid):
    dataset = CamVid(camvid, "val")
    steps = []
    result = evaluate(net, dataset, steps.append)
    logits = torch.cat([net.predict(net.preprocess(image[None])) for image, _ in (dataset[i] for i in range(3))])
    truth = torch.stack([dataset[i][1].as_subclass(torch.Tensor).long() for i in range(3)])
    assert result.loss == pytest.approx(F.cross_entropy(logits, truth, ignore_index=255).item(), rel=1e-5)
    counted = truth != 255
    right = (logits.argmax(1) == truth) & counted
    assert result.pixel_accuracy == pytest.approx(right.sum().item() / counted.sum().item())
    car = ((logits.argmax(1) == 8) & counted, truth == 8)
    assert result.iou["car"] == pytest.approx(((car[0] & car[1]).sum() / (car[0] | car[1]).sum()).item())
    values = [v for v in result.iou.values() if v is not None]
    assert result.miou == pytest.approx(sum(values) / len(values)) and result.images == 3 and steps == [1, 2, 3]
    assert result.as_json()["protocol"] == "whole image, single scale, no flip"


def test_other_classes_than_the_data_sets_are_refused(net, camvid):
    dataset = CamVid(camvid, "val")
    with pytest.raises(ValueError, match="The model has 3 classes and the data set 11"):
        evaluate(PSPNet("test_efficientnet", None, classes=3, psp_out_channels=8), dataset)
    net.labels = Labels(CAMVID.names[::-1], CAMVID.colors)
    with pytest.raises(ValueError, match="The model's classes are"):
        evaluate(net, dataset)


def test_a_data_set_without_a_pixel_that_counts_is_refused(net):
    class Ignored:
        labels = CAMVID

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return torch.zeros(3, 16, 16, dtype=torch.uint8), torch.full((16, 16), 255, dtype=torch.uint8)

    with pytest.raises(ValueError, match="nothing to measure"):
        evaluate(net, Ignored())
