"""Metadata of exported networks from elsewhere are used or refused, whatever they hold."""

import json
import random

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra 'export'")

import onnx

from pspnet_zoo import Labels, Predictor, PSPNet, WeightsError, export
from pspnet_zoo.runtimes.exported import KEY, Exported
from tests.changed_json import changed


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = PSPNet("test_resnet", None, classes=3, psp_out_channels=16)
    network.labels = Labels(("a", "b", "c"))
    path = tmp_path_factory.mktemp("exported") / "a.onnx"
    export(network, path)
    return path


def metadata(model):
    return next(entry for entry in model.metadata_props if entry.key == KEY)


def fuzz(file, tmp_path, seeds):
    model, refused = onnx.load(file), 0
    text, path = metadata(model).value, tmp_path / "changed.onnx"
    text = json.dumps({**json.loads(text), "file_sha256": None})
    for seed in seeds:
        metadata(model).value = json.dumps(changed(json.loads(text), random.Random(seed)))
        onnx.save(model, path)
        try:
            assert Predictor(path)(np.zeros((20, 30, 3), np.uint8)).mask.shape == (20, 30), seed
        except (WeightsError, ValueError) as error:
            assert str(path) in str(error) or "This network has no labels" in str(error), (seed, error)
            refused += 1
    assert refused > len(seeds) / 4


def test_a_hundred_changed_metadata_are_used_or_refused_by_name(file, tmp_path):
    fuzz(file, tmp_path, range(100))


@pytest.mark.slow
def test_thousands_of_changed_metadata_are_used_or_refused_by_name(file, tmp_path):
    fuzz(file, tmp_path, range(100, 3100))


def test_metadata_that_nest_without_end_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"a\.onnx"):
        Exported.from_json("[" * 100_000, tmp_path / "a.onnx")


def test_metadata_come_back_as_they_were(file):
    spec = Exported.from_json(metadata(onnx.load(file)).value, file)
    assert Exported.from_json(spec.to_json(), file) == spec and spec.labels == Labels(("a", "b", "c"))
