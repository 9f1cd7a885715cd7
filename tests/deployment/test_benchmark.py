import copy

import pytest
import torch

from pspnet_zoo import PSPNet
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.deployment import benchmark
from pspnet_zoo.deployment.benchmark import compare, parse_size
from pspnet_zoo.runtimes.torch import TorchRuntime


@pytest.fixture
def network():
    return PSPNet("test_resnet", None, classes=3, psp_out_channels=16)


def test_runtimes_take_turns_and_are_compared_with_the_first(network):
    steps = []
    names = ["torch", "torch-fast", "openvino-int8"]
    found = compare(network, (33, 65), names=names, rounds=2, progress=lambda *step: steps.append(step))
    assert [row.runtime for row in found.rows] == ["torch", "torch-fast"]
    assert found.rows[0].ratio == 1 and all(row.milliseconds > 0 for row in found.rows)
    assert all(row.same_class > 0.99 and row.miou is None for row in found.rows)
    assert ("timing", 0, 2) in steps and steps[-1] == ("finished", 2, 2)
    assert "it needs images" in found.left_out["openvino-int8"]
    assert found.as_json()["machine"]["versions"]["torch"]


@pytest.mark.parametrize("multilabel", [False, True])
def test_ids_of_one_class_and_of_multi_label_are_compared_by_the_threshold(monkeypatch, multilabel):
    network = PSPNet("test_resnet", None, classes=2 if multilabel else 1, psp_out_channels=16, multilabel=multilabel)
    network.threshold = (0.7, 0.7) if multilabel else 0.7
    torch.nn.init.zeros_(network.segmentation_head[0].weight)
    torch.nn.init.constant_(network.segmentation_head[0].bias, 0.4)  # the probability 0.6
    wrong = copy.deepcopy(network)
    torch.nn.init.constant_(wrong.segmentation_head[0].bias, 1.4)
    networks = {"torch": network, "torch-fast": wrong}
    monkeypatch.setattr(benchmark, "build_runtime", lambda name, *_: TorchRuntime(networks[name]))
    found = compare(network, (33, 65), names=list(networks), rounds=1)
    assert [row.same_class for row in found.rows] == [1, 0]


def test_the_number_of_threads_reaches_the_runtime(network):
    used = []
    compare(network, (33, 65), names=["torch"], rounds=1, threads=1, progress=lambda *step: used.append(torch.get_num_threads()))
    assert used[-1] == 1


def test_an_encoder_of_one_size_is_timed_at_that_one():
    found = compare(PSPNet("pit_ti_224", None, classes=3, psp_out_channels=8), (33, 65), names=["torch"], rounds=1)
    assert found.size == (224, 224) and found.as_json()["size"] == (224, 224)


def test_an_unknown_runtime_is_named(network):
    with pytest.raises(ValueError, match="There is no runtime 'tvm'; choose from torch, torch-fast"):
        compare(network, (33, 65), names=["tvm"])


@pytest.mark.parametrize("text", ["512", "512x", "0x5", "ax4", "5x4x3"])
def test_a_size_is_height_and_width(text):
    assert parse_size("512x1024") == (512, 1024)
    with pytest.raises(ValueError, match="height and width"):
        parse_size(text)


def test_a_dataset_of_other_classes_is_refused_before_anything_is_built(network, camvid):
    steps, val = [], open_dataset("camvid", camvid, "val")
    with pytest.raises(ValueError, match="The model has 3 classes and the dataset 11"):
        compare(network, (33, 65), names=["torch"], dataset=val, progress=lambda *step: steps.append(step))
    assert steps == []
