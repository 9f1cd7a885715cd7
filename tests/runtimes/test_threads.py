"""One runtime serves many threads, with the results of one after the other."""

import time
from concurrent.futures import ThreadPoolExecutor

import openvino
import pytest
import torch
from torch import nn

from pspnet_zoo.inference.scores import class_scores
from pspnet_zoo.runtimes.open import open_runtime
from pspnet_zoo.runtimes.pool import Pool
from tests.runtimes.conftest import varied

SIZES = ((32, 48), (65, 97), (33, 40))
MODELS = ("torch", "onnx", "openvino", "test_efficientnet", "test_vit")


@pytest.mark.parametrize(("threads", "streams"), [(None, None), (1, 4), (3, 1), (8, 1)])
def test_openvino_runs_images_side_by_side_on_the_cores_that_an_image_leaves(files, monkeypatch, threads, streams):
    """On four cores, images of two threads otherwise take turns, one core at work."""
    asked, compile_model = [], openvino.Core.compile_model

    def noting(core, model, device, settings):
        asked.append(settings)
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", noting)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    open_runtime(files["openvino"], threads=threads)
    wanted = {} if threads is None else {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams * threads}
    assert {key: value for key, value in asked[0].items() if "NUM" in key} == wanted


@pytest.mark.parametrize("model", MODELS)
def test_eight_threads_get_what_one_gets(model, files):
    runtime = open_runtime(files[model] if model in files else varied(model), device="cpu")
    images = [torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8) for size in SIZES]
    alone = [class_scores(runtime, image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: class_scores(runtime, images[i % len(images)]), range(24)))
    for i, scores in enumerate(found):
        assert torch.equal(scores, alone[i % len(images)])


class Stateful(nn.Module):
    """Keeps its input in itself while it runs, as timm's NASNet keeps its features."""

    def forward(self, x):
        self.kept = x
        time.sleep(0.01)
        return self.kept


def test_a_network_that_keeps_tensors_while_it_runs_is_not_shared_by_threads(network):
    network.segmentation_head[2] = Stateful()  # in place of the activation
    images = [torch.full((1, 3, 32, 32), value, dtype=torch.uint8) for value in range(0, 256, 32)]
    runtime = open_runtime(network, device="cpu")
    alone = [class_scores(runtime, image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: class_scores(runtime, image), images))
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_weights_that_change_between_threads_calls_count_in_all(network):
    runtime = open_runtime(network, device="cpu")
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            with torch.no_grad():
                network.segmentation_head[0].weight.data.mul_(1.5)
            wanted = class_scores(network, image)
            for scores in pool.map(lambda _: class_scores(runtime, image), range(8)):
                assert (scores - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_a_pool_lends_no_object_twice_at_once():
    made = []
    pool = Pool(lambda: made.append(object()) or made[-1])
    with pool.lend() as one, pool.lend() as other:
        assert one is not other
    with pool.lend(), pytest.raises(RuntimeError), pool.lend():
        raise RuntimeError
    with pool.lend(), pool.lend():
        pass
    assert len(made) == 2
