"""Metadata of exported networks from elsewhere are used or refused, whatever they hold."""

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs the extra 'export'")

import onnx

from pspnet_zoo import Labels, Predictor, PSPNet, WeightsError, export
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.runtimes.exported import KEY, Exported, ExportedRuntime, check_as_exported, files_of
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


def test_metadata_that_nest_without_end_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"a\.onnx"):
        Exported.from_json("[" * 100_000, tmp_path / "a.onnx")


def test_metadata_come_back_as_they_were(file):
    spec = Exported.from_json(metadata(onnx.load(file)).value, file)
    assert Exported.from_json(spec.to_json(), file) == spec and spec.labels == Labels(("a", "b", "c"))


def checked(file, **changes):
    """The metadata of the file with some changed, after their check."""
    spec = replace(Exported.from_json(metadata(onnx.load(file)).value, file), **changes)
    spec.check_kinds()
    return spec


TWO = {"classes": 2, "labels": Labels(("a", "b"))}
ONE = {"classes": 1, "labels": Labels(("a", "b"))}


@pytest.mark.parametrize(
    "changes",
    [
        {"output": "ids+confidence"},
        {**TWO, "threshold": 0.3},
        {**ONE, "threshold": 0.3},
        {"classes": 1, "labels": Labels(("a",))},
        {"labels": None},
        {"multilabel": True, "threshold": (0.3, 0.4, 0.5)},
        {"multilabel": True, "output": "ids"},
        {"image_size": (64, 32)},
        {"input": "uint8"},
        {"channels": 1, "preprocess": Preprocess((0.5,), (0.2,), white=65535)},
    ],
    ids=str,
)
def test_metadata_that_an_export_may_write_are_taken(file, changes):
    checked(file, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multilabel": True, "output": "ids+confidence"}, "the network is multi-label"),
        ({"threshold": 0.3}, "of at most two classes"),
        ({**TWO, "threshold": (0.3, 0.4)}, "of at most two classes"),
        ({**TWO, "threshold": 1.0}, "between 0 and 1"),
        ({**TWO, "threshold": 0.0}, "between 0 and 1"),
        ({"multilabel": True, "threshold": (0.3, 0.4)}, "one a class of multi-label"),
        ({"multilabel": True, "threshold": 0.3}, "one a class of multi-label"),
        ({"multilabel": True, "threshold": (0.3, 0.4, "0.5")}, "one a class of multi-label"),
        ({"classes": 2}, "2 classes, and 3 labels"),
        ({"classes": 4}, "4 classes, and 3 labels"),
        ({"classes": 0, "labels": None}, "positive whole numbers"),
        ({"image_size": (64, 0)}, "positive whole numbers"),
        ({"image_size": (64,)}, "positive whole numbers"),
        ({"channels": 4}, "4 channels, and preprocess has 3"),
        ({"input": "uint8", "preprocess": Preprocess((0.5,) * 3, (0.2,) * 3, white=65535)}, "three channels of 8 bits"),
        ({"input": "uint8", "channels": 1, "preprocess": Preprocess((0.5,), (0.2,))}, "three channels of 8 bits; there are 1"),
        ({"output": "scores"}, "output is 'scores'"),
        ({"classes": "3"}, "classes is '3'"),
    ],
    ids=str,
)
def test_metadata_that_contradict_themselves_are_refused(file, changes, message):
    with pytest.raises(ValueError, match=message):
        checked(file, **changes)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("top", [1.0, 255.0])
def test_a_file_that_normalises_is_given_the_pixels(file, order, top):
    mean, std = (0.4 * top, 0.5 * top, 0.6 * top), (0.2 * top, 0.3 * top, 0.25 * top)
    preprocess = Preprocess(mean=mean, std=std, range=top, order=order, input_scale=2.0)
    seen = []
    spec = checked(file, input="uint8", preprocess=preprocess, file_sha256=None)
    runtime = ExportedRuntime(file, spec, lambda x: seen.append(x) or np.zeros((1, 3, 4, 5), np.float32))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 5), np.uint8)
    ordered = torch.from_numpy(pixels if order == "RGB" else pixels[:, ::-1].copy()).float()
    given = runtime.preprocess
    scaled = ordered / 255 * given.range
    runtime((scaled - torch.tensor(given.mean).view(3, 1, 1)) / torch.tensor(given.std).view(3, 1, 1))
    assert (seen[0] == pixels).all() and seen[0].dtype == np.uint8
    assert (given.input_scale, given.max_pixels) == (1, preprocess.max_pixels // 4)


def test_a_file_that_upsamples_its_images_says_so(file):
    preprocess = Preprocess((0.5,) * 3, (0.2,) * 3, input_scale=1.5)
    for changes in ({"input": "uint8"}, {"preprocess": preprocess}, {"input": "uint8", "preprocess": preprocess}):
        runtime = ExportedRuntime(file, checked(file, file_sha256=None, **changes), lambda x: x)
        assert runtime.upsamples == (len(changes) == 2)


@pytest.mark.parametrize(("threshold", "classes"), [(None, 3), (0.3, 2), (0.7, 2)])
def test_ids_with_confidence_become_probabilities_that_give_the_same_ids(file, threshold, classes):
    generator = np.random.default_rng(0)
    ids = generator.integers(0, classes, (1, 16, 16))
    confidence = generator.integers(0, 256, (1, 16, 16), np.uint8)
    labels = Labels(("a", "b", "c")[:classes])
    spec = checked(file, output="ids+confidence", classes=classes, labels=labels, threshold=threshold, file_sha256=None)
    scores = ExportedRuntime(file, spec, lambda x: [ids, confidence])(torch.zeros(1, 3, 16, 16))
    assert scores.shape == (1, classes, 16, 16)
    torch.testing.assert_close(scores.sum(1), torch.ones(1, 16, 16))
    decided = scores.argmax(1) if threshold is None else (scores[:, 1] > threshold).long()
    assert (decided.numpy() == ids).all()
    own = np.take_along_axis(scores.numpy(), ids[:, None], 1)[:, 0]
    least = 1 / classes if threshold is None else np.where(ids == 1, threshold, 1 - threshold)
    np.testing.assert_allclose(own, np.maximum(confidence / 255, least), atol=2e-6)


def test_ids_and_clamped_masks_have_no_threshold_left(file):
    def runtime(**changes):
        return ExportedRuntime(file, checked(file, file_sha256=None, **changes), lambda x: x)

    ids = runtime(**TWO, output="ids", threshold=0.3)
    assert ids.threshold is None and ids.activation == "argmax"
    assert runtime(multilabel=True, output="ids").activation == "clamp"
    logits = runtime(**TWO, threshold=0.3, activation="softmax2d")
    assert logits.threshold == 0.3 and logits.activation == "softmax2d"
    with pytest.raises(ValueError, match="takes images of 64x32 pixels, .* but not 32x64"):
        runtime(image_size=(64, 32))(torch.zeros(1, 3, 32, 64))


def test_a_changed_file_and_changed_weights_beside_it_are_refused(file, tmp_path):
    copy = tmp_path / "a.onnx"
    data = file.read_bytes()
    copy.write_bytes(data)
    assert Predictor(copy)(np.zeros((20, 30, 3), np.uint8)).mask.shape == (20, 30)
    copy.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    with pytest.raises(WeightsError, match=r"a\.onnx"):
        Predictor(copy)
    spec = checked(file, beside_sha256="0" * 64, file_sha256=None)
    with pytest.raises(WeightsError, match="The weights beside '.*' are damaged or of another file"):
        ExportedRuntime(file, spec, lambda x: x)
    copy.write_bytes(data)
    Path(f"{copy}.data").write_bytes(b"weights")
    assert files_of(copy) == [copy, Path(f"{copy}.data")] and files_of(file) == [file]
    good = replace(spec, beside_sha256=hashlib.sha256(b"weights").hexdigest())
    assert ExportedRuntime(copy, good, lambda x: x).weights_sha256 == good.beside_sha256


def test_options_that_would_change_an_exported_file_are_refused(file):
    spec = checked(file)
    check_as_exported(file, spec, None, False)
    check_as_exported(file, spec, spec.precision, False)
    with pytest.raises(ValueError, match="precision is 'bfloat16', and .* was exported in float32"):
        check_as_exported(file, spec, "bfloat16", False)
    with pytest.raises(ValueError, match="compile is for PyTorch"):
        check_as_exported(file, spec, None, True)


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
