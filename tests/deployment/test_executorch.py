"""ExecuTorch files, in its own runtime."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pspnet_zoo import Predictor
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.deployment.export import export
from pspnet_zoo.runtimes.open import open_runtime
from pspnet_zoo.storage.errors import WeightsError
from tests.deployment.conftest import tiny

pytest.importorskip("executorch.runtime", reason="needs the extra 'executorch'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
SIZE = (33, 65)


@pytest.fixture(scope="module")
def net():
    return tiny()


@pytest.fixture(scope="module")
def file(net, tmp_path_factory):
    return export(net, tmp_path_factory.mktemp("pte") / "street.pte", size=SIZE)


def test_logits_are_those_of_the_network(file, net):
    assert [path.name for path in file.parent.iterdir()] == ["street.pte"]
    x = torch.randn(2, 3, *SIZE)
    with torch.inference_mode():
        wanted = net(x)
    found = open_runtime(file).run(x)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_it_carries_its_metadata(file, net):
    runtime = open_runtime(file)
    assert (runtime.labels, runtime.preprocess, runtime.image_size) == (CAMVID, net.preprocess, SIZE)
    assert runtime.spec.check == {"sizes": ["1x33x65"], "allowed": 1e-4}
    assert json.loads(runtime.spec.to_json())["precision"] == "float32"


def test_a_predictor_runs_it_in_windows_and_in_threads(file, net):
    predictor = Predictor(file)
    photos = [np.random.default_rng(i).integers(0, 256, (50, 90, 3), np.uint8) for i in range(4)]
    wanted = [predictor(photo).mask for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda photo: predictor(photo).mask, photos * 3))
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted * 3, strict=True))
    assert (Predictor(net)(photos[0][:33, :65]).mask == predictor(photos[0][:33, :65]).mask).mean() > 0.999


def test_a_damaged_or_foreign_file_is_refused(file, tmp_path):
    for content in (b"", b"no program", file.read_bytes()[:200]):
        (tmp_path / "x.pte").write_bytes(content)
        with pytest.raises(WeightsError, match=r"x\.pte' cannot be read"):
            open_runtime(tmp_path / "x.pte")


@pytest.mark.parametrize(
    ("options", "text"), [({"device": "cuda"}, "device"), ({"fast": True}, "fast"), ({"threads": 2}, "threads")], ids=str
)
def test_options_that_it_cannot_honour_are_refused_by_name(file, options, text):
    with pytest.raises(ValueError, match=f"^{text} is not for"):
        open_runtime(file, **options)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("street.pte", {}, "it needs the size of the images"),
        ("street.onnx", {"size": SIZE}, "no other format takes it"),
        ("street.pte", {"size": (0, 64)}, r"size is 0x64"),
        ("street.pte", {"size": SIZE, "precision": "float16"}, "precision 'float16' is not for executorch"),
        ("street.pt2", {"size": SIZE, "format": "executorch"}, "ends as program does"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(net, tmp_path, name, options, text):
    with pytest.raises(ValueError, match=text):
        export(net, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_export_leaves_nothing(net, tmp_path, monkeypatch):
    import executorch.exir

    def fail(*_, **__):
        raise RuntimeError("an operator is missing\nand more")

    monkeypatch.setattr(executorch.exir, "to_edge_transform_and_lower", fail)
    with pytest.raises(ValueError, match="'test_efficientnet' cannot be exported for ExecuTorch: an operator is missing$"):
        export(net, tmp_path / "street.pte", size=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv3_small_050", "convnext_atto"])
def test_other_families_are_right_too(encoder, tmp_path):
    net = tiny(encoder)
    runtime = open_runtime(export(net, tmp_path / "street.pte", size=(64, 96)))
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        wanted = net(x)
    assert (runtime.run(x) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.slow
def test_the_default_model_from_uint8_to_ids(tmp_path):
    predictor = Predictor()
    file = export("pspnet_lite0.camvid", tmp_path / "street.pte", size=(240, 320), input="uint8", output="ids")
    photo = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    assert (Predictor(file)(photo).mask == predictor(photo).mask).mean() > 0.999
