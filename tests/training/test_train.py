"""Training learns, stops when told, and resumes exactly."""

import copy
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.transforms.v2 import functional as F

from pspnet_zoo import PSPNet, WeightsError, from_pretrained
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.inference.draw import overlay
from pspnet_zoo.inference.scores import class_ids
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.stream import mask_class_fractions
from pspnet_zoo.training.train import BEST, CHECKPOINT, train
from tests.training.conftest import without_dropout

RECIPE = Recipe(iterations=6, batch_size=2, crop=(32, 48), lr=0.01, checkpoint_every=2)


class Interrupted(Exception):
    """Stands for a process that ends at once, as by SIGKILL."""


def stop_at(step):
    def progress(done, loss, lr):
        if done == step:
            raise Interrupted

    return progress


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a)


def test_training_learns_made_up_streets(net, camvid, tmp_path):
    losses = []
    recipe = replace(RECIPE, iterations=40, batch_size=4, checkpoint_every=100)
    steps = train(
        net, open_dataset("camvid", camvid, "train"), recipe, tmp_path, progress=lambda step, loss, lr: losses.append((loss, lr))
    ).steps
    assert steps == 40 and losses[-1][0] < losses[0][0] / 2
    assert losses[0][1] == 0.01 and losses[20][1] == pytest.approx(0.01 * 0.5**0.9)
    assert evaluate(net, open_dataset("camvid", camvid, "val")).pixel_accuracy > 0.8


@pytest.mark.parametrize(
    ("killed_at", "changes"),
    [
        (3, {}),
        (4, {}),
        (3, {"batch_size": 4, "ema_decay": 0.6, "accumulation": 2}),
        (5, {"precision": "bf16", "ohem_threshold": 0.7}),
        (3, {"optimizer": "adamw", "lr": 0.001, "layer_decay": 0.7, "ema_decay": 0.6, "warmup": 2, "clip_grad": 0.1}),
        (3, {"optimizer": "adamw", "freeze": "encoder", "schedule": "cosine"}),
    ],
)
def test_a_killed_run_resumes_to_the_very_same_weights(net, camvid, tmp_path, killed_at, changes):
    dataset, twin, recipe = open_dataset("camvid", camvid, "train"), copy.deepcopy(net), replace(RECIPE, **changes)
    train(net, dataset, recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(twin, dataset, recipe, tmp_path / "broken", progress=stop_at(killed_at))
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert train(twin, dataset, recipe, tmp_path / "broken", resume=True).steps == 6
    assert same(net, twin)
    assert (tmp_path / "whole" / CHECKPOINT).read_bytes() == (tmp_path / "broken" / CHECKPOINT).read_bytes()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_the_result_does_not_depend_on_the_workers(net, camvid, tmp_path):
    dataset, twin = open_dataset("camvid", camvid, "train"), copy.deepcopy(net)
    train(net, dataset, replace(RECIPE, iterations=2), tmp_path / "0")
    train(twin, dataset, replace(RECIPE, iterations=2), tmp_path / "1", workers=1)
    assert same(net, twin)


def test_a_signal_ends_the_run_with_a_checkpoint(net, camvid, tmp_path):
    dataset, twin = open_dataset("camvid", camvid, "train"), copy.deepcopy(net)
    before = signal.getsignal(signal.SIGTERM)

    def terminate(step, loss, lr):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(twin, dataset, RECIPE, tmp_path / "run", progress=terminate).steps == 1
    assert signal.getsignal(signal.SIGTERM) is before
    assert train(twin, dataset, RECIPE, tmp_path / "run", resume=True).steps == 6
    train(net, dataset, RECIPE, tmp_path / "whole")
    assert same(net, twin)


def test_what_cannot_be_resumed_is_named(net, camvid, tmp_path):
    dataset = open_dataset("camvid", camvid, "train")
    with pytest.raises(WeightsError, match=r"No weights at '.*checkpoint.safetensors'"):
        train(net, dataset, RECIPE, tmp_path, resume=True)
    train(net, dataset, replace(RECIPE, iterations=1), tmp_path)
    with pytest.raises(WeightsError, match="of another run: lr was 0.01 and is 0.02"):
        train(net, dataset, replace(RECIPE, lr=0.02), tmp_path, resume=True)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:-10])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        train(net, dataset, RECIPE, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(net, camvid, tmp_path):
    train(net, open_dataset("camvid", camvid, "train"), replace(RECIPE, iterations=2), tmp_path)
    kept = (tmp_path / CHECKPOINT).read_bytes()
    torch.nn.init.constant_(net.segmentation_head[0].bias, float("nan"))
    with pytest.raises(FloatingPointError, match=r"The loss is nan at step 0.*/train/00\d\.png', '.*/train/00\d\.png'"):
        train(net, open_dataset("camvid", camvid, "train"), RECIPE, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == kept


def test_images_are_scaled_from_the_size_at_which_the_network_sees_them(net, camvid, tmp_path):
    dataset, copied, losses = open_dataset("camvid", camvid, "train"), copy.deepcopy(net), []
    net.preprocess = replace(net.preprocess, input_scale=1.5)
    for name, network, scale in (("by it", net, (1.0, 1.2)), ("by hand", copied, (1.5, 1.5 * 1.2))):
        recipe = replace(RECIPE, iterations=1, scale=scale)
        train(network, dataset, recipe, tmp_path / name, progress=lambda step, loss, lr: losses.append(loss))
    assert losses[0] == losses[1] and same(net, copied)


class Halved:
    """A dataset at half its size."""

    labels = CAMVID

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, mask = self.dataset[index]
        return F.resize(image, [24, 32], antialias=True), F.resize(mask, [24, 32])


def test_large_images_are_scaled_from_the_size_to_which_the_network_shrinks_them(net, camvid, tmp_path):
    dataset, copied, losses = open_dataset("camvid", camvid, "train"), copy.deepcopy(net), []
    net.preprocess = replace(net.preprocess, max_pixels=48 * 64 // 4)
    recipe = replace(RECIPE, iterations=1, crop=(24, 32), scale=(1.0, 1.0))
    for name, network, images in (("by it", net, dataset), ("by hand", copied, Halved(dataset))):
        train(network, images, recipe, tmp_path / name, progress=lambda step, loss, lr: losses.append(loss))
    assert losses[0] == losses[1] and same(net, copied)


def test_class_shares_are_of_the_pixels_that_count(camvid):
    dataset = open_dataset("camvid", camvid, "train")
    masks = torch.stack([dataset[i][1].as_subclass(torch.Tensor) for i in range(len(dataset))])
    class_fractions = mask_class_fractions(dataset)
    assert class_fractions.sum() == pytest.approx(1) and class_fractions[8] == pytest.approx(
        ((masks == 8).sum() / (masks != 255).sum()).item()
    )


def test_a_recipe_with_class_weights_trains(net, camvid, tmp_path):
    assert (
        train(net, open_dataset("camvid", camvid, "train"), replace(RECIPE, iterations=1, class_weight_power=0.25), tmp_path).steps
        == 1
    )


def test_a_full_disk_keeps_the_last_checkpoint(net, camvid, tmp_path, monkeypatch):
    def no_space(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_the_disk(step, loss, lr):
        if step == 3:
            monkeypatch.setattr(os, "fsync", no_space)

    dataset, twin = open_dataset("camvid", camvid, "train"), copy.deepcopy(net)
    with pytest.raises(OSError, match="No space left"):
        train(net, dataset, RECIPE, tmp_path, progress=fill_the_disk)
    monkeypatch.undo()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    steps = []
    train(twin, dataset, RECIPE, tmp_path, resume=True, progress=lambda step, loss, lr: steps.append(step))
    assert steps == [3, 4, 5, 6]


def test_parts_of_a_batch_make_the_step_of_the_whole(net, camvid, tmp_path):
    """Exactly so where norms keep their statistics, though the parts have different numbers of pixels that count."""
    without_dropout(net)
    dataset, twin = open_dataset("camvid", camvid, "train"), copy.deepcopy(net)
    recipe = replace(RECIPE, iterations=3, batch_size=4, freeze="norms", class_weight_power=0.5)
    train(net, dataset, recipe, tmp_path / "whole")
    train(twin, dataset, replace(recipe, accumulation=4), tmp_path / "parts")
    for (name, a), b in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_the_batch_must_divide(net, camvid, tmp_path):
    with pytest.raises(ValueError, match="batch_size is 3; it must be a multiple of 1 processes times 2 micro-batches"):
        train(net, open_dataset("camvid", camvid, "train"), replace(RECIPE, batch_size=3, accumulation=2), tmp_path)


def test_validation_keeps_the_best_network_and_logs_scores_and_images(net, camvid, tmp_path):
    validation = open_dataset("camvid", camvid, "train")  # it has more images than are logged
    recipe = replace(RECIPE, iterations=8, evaluate_every=3, batch_size=4)
    train(net, validation, recipe, tmp_path, validation=validation)
    log = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    scores = {event.step: event.value for event in log.Scalars("miou/val")}
    assert list(scores) == [3, 6, 8] and len(log.Scalars("loss/train")) == len(log.Scalars("learning rate")) == 8
    assert len(log.Tags()["images"]) == 3
    assert evaluate(net, validation).miou == pytest.approx(scores[8], rel=1e-5)
    assert evaluate(from_pretrained(tmp_path / BEST), validation).miou == pytest.approx(max(scores.values()), rel=1e-5)
    image, truth = validation[0]
    pixels, seen = image.permute(1, 2, 0).numpy(), class_ids(net, image[None])[0]
    beside = [overlay(pixels, mask.numpy(), CAMVID, 0.5) for mask in (truth, seen)]
    logged = log.Images(f"{validation.images[0].stem}: ground truth, prediction")[-1].encoded_image_string
    assert np.array_equal(np.array(Image.open(io.BytesIO(logged))), np.concatenate(beside, axis=1))


def test_a_resumed_run_logs_every_step_once_and_the_recipe(net, camvid, tmp_path):
    dataset = open_dataset("camvid", camvid, "train")
    with pytest.raises(Interrupted):
        train(net, dataset, RECIPE, tmp_path, progress=stop_at(3))  # its checkpoint is of step 2
    train(net, dataset, RECIPE, tmp_path, resume=True)
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in log.Scalars("loss/train")] == [1, 2, 3, 4, 5, 6]
    assert not any("Writer" in type(thread).__name__ for thread in threading.enumerate())  # it was closed: nothing is left to write
    assert json.loads((tmp_path / "recipe.json").read_text()) == json.loads(json.dumps(asdict(RECIPE)))


def test_the_running_average_is_the_result(net, camvid, tmp_path):
    dataset, recipe = open_dataset("camvid", camvid, "train"), replace(RECIPE, iterations=3, ema_decay=0.5, checkpoint_every=1)
    name, expected, history = "segmentation_head.0.weight", net.segmentation_head[0].weight.detach().clone(), []

    def note(step, loss, lr):
        history.append(net.segmentation_head[0].weight.detach().clone())

    train(net, dataset, recipe, tmp_path, progress=note)
    for weight in history:
        expected = 0.5 * expected + 0.5 * weight
    torch.testing.assert_close(net.segmentation_head[0].weight.detach(), expected)
    torch.testing.assert_close(load_file(tmp_path / CHECKPOINT)[f"model.{name}"], history[-1])


@pytest.mark.parametrize("freeze", ["norms", "encoder"])
def test_what_is_frozen_stays(net, camvid, tmp_path, freeze):
    before = copy.deepcopy(net.state_dict())
    train(net, open_dataset("camvid", camvid, "train"), replace(RECIPE, iterations=2, freeze=freeze), tmp_path)
    after = net.state_dict()
    frozen = [k for k in after if (k.startswith("encoder.") if freeze == "encoder" else "running" in k)]
    assert frozen and all(torch.equal(before[k], after[k]) for k in frozen)
    assert not torch.equal(before["segmentation_head.0.weight"], after["segmentation_head.0.weight"])


def test_norms_and_biases_can_be_spared_the_decay(net):
    groups = net.param_groups(0.1, 3, decay_norms=False)
    assert [g["lr"] for g in groups] == pytest.approx([0.1, 0.3, 0.1, 0.3])
    assert all(p.ndim > 1 for g in groups[:2] for p in g["params"])
    assert all(p.ndim <= 1 and g["weight_decay"] == 0 for g in groups[2:] for p in g["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))


def test_an_image_level_head_is_refused(camvid, tmp_path):
    net = PSPNet("test_efficientnet", None, classes=11, aux_params={"classes": 2})
    with pytest.raises(ValueError, match="without aux_params"):
        train(net, open_dataset("camvid", camvid, "train"), RECIPE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("align_corners", [True, None])
def test_a_compiled_run_learns_alike(align_corners, camvid, tmp_path):
    net = PSPNet("test_efficientnet", None, classes=11, psp_out_channels=16, aux_head=True, align_corners=align_corners)
    without_dropout(net)
    dataset, twin, recipe = open_dataset("camvid", camvid, "train"), copy.deepcopy(net), replace(RECIPE, iterations=2)
    train(net, dataset, recipe, tmp_path / "eager")
    train(twin, dataset, recipe, tmp_path / "compiled", compile=True)
    for (name, a), b in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


WORKER = """
import os, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from pspnet_zoo import PSPNet
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.train import train

data, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(0)
net = PSPNet("test_efficientnet", None, classes=11, psp_out_channels=16, psp_dropout=0.0, aux_head=True)
net.labels = CAMVID
recipe = Recipe(iterations=4, batch_size=4, crop=(32, 48), lr=0.01, evaluate_every=2, freeze=sys.argv[3], class_weight_power=0.3)
lines = []
sets = {"dataset": open_dataset("camvid", data, "train"), "validation": open_dataset("camvid", data, "val")}
train(net, recipe=recipe, folder=out / "run", cpu=True, progress=lambda *numbers: lines.append(numbers), **sets)
rank = os.environ.get("RANK", "0")
assert bool(lines) == (rank == "0")
save_file({k: v.contiguous() for k, v in net.state_dict().items()}, out / f"{rank}.safetensors")
"""


@pytest.mark.parametrize("freeze", ["norms", pytest.param("nothing", marks=pytest.mark.slow)])
def test_two_processes_end_alike_and_like_one_with_the_whole_batch(camvid, tmp_path, freeze):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", [sys.executable]), ("two", torchrun)):
        (tmp_path / name).mkdir()
        done = subprocess.run([*launcher, script, camvid, tmp_path / name, freeze], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / "two" / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    if freeze == "norms":  # else each process has statistics of its own images
        whole = load_file(tmp_path / "one" / "0.safetensors")
        for name in whole:
            torch.testing.assert_close(first[name], whole[name], rtol=1e-4, atol=1e-6, msg=name)
    else:  # evaluated by both, with the statistics that are kept
        net = PSPNet("test_efficientnet", None, classes=11, psp_out_channels=16, aux_head=True)
        net.load_state_dict(first)
        log = EventAccumulator(str(tmp_path / "two" / "run" / "tensorboard")).Reload()
        assert log.Scalars("loss/val")[-1].value == pytest.approx(
            evaluate(net, open_dataset("camvid", camvid, "val")).loss, rel=1e-5
        )
