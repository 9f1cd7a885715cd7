"""Training learns, stops when told, and resumes exactly."""

import copy
import os
import signal
from dataclasses import replace

import pytest
import torch

from pspnet_zoo import WeightsError
from pspnet_zoo.data.camvid import CamVid
from pspnet_zoo.engine.evaluate import evaluate
from pspnet_zoo.engine.recipes import Recipe
from pspnet_zoo.engine.train import CHECKPOINT, class_shares, segmentation_loss, train

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
    steps = train(net, CamVid(camvid, "train"), recipe, tmp_path, progress=lambda step, loss, lr: losses.append((loss, lr)))
    assert steps == 40 and losses[-1][0] < losses[0][0] / 2
    assert losses[0][1] == 0.01 and losses[20][1] == pytest.approx(0.01 * 0.5**0.9)
    assert evaluate(net, CamVid(camvid, "val")).pixel_accuracy > 0.8


@pytest.mark.parametrize("killed_at", [3, 4])
def test_a_killed_run_resumes_to_the_very_same_weights(net, camvid, tmp_path, killed_at):
    dataset, twin = CamVid(camvid, "train"), copy.deepcopy(net)
    train(net, dataset, RECIPE, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(twin, dataset, RECIPE, tmp_path / "broken", progress=stop_at(killed_at))
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert train(twin, dataset, RECIPE, tmp_path / "broken", resume=True) == 6
    assert same(net, twin)
    assert (tmp_path / "whole" / CHECKPOINT).read_bytes() == (tmp_path / "broken" / CHECKPOINT).read_bytes()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_the_result_does_not_depend_on_the_workers(net, camvid, tmp_path):
    dataset, twin = CamVid(camvid, "train"), copy.deepcopy(net)
    train(net, dataset, replace(RECIPE, iterations=2), tmp_path / "0")
    train(twin, dataset, replace(RECIPE, iterations=2), tmp_path / "1", workers=1)
    assert same(net, twin)


def test_a_signal_ends_the_run_with_a_checkpoint(net, camvid, tmp_path):
    dataset, twin = CamVid(camvid, "train"), copy.deepcopy(net)
    before = signal.getsignal(signal.SIGTERM)

    def terminate(step, loss, lr):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(twin, dataset, RECIPE, tmp_path / "run", progress=terminate) == 1
    assert signal.getsignal(signal.SIGTERM) is before
    assert train(twin, dataset, RECIPE, tmp_path / "run", resume=True) == 6
    train(net, dataset, RECIPE, tmp_path / "whole")
    assert same(net, twin)


def test_what_cannot_be_resumed_is_named(net, camvid, tmp_path):
    dataset = CamVid(camvid, "train")
    with pytest.raises(WeightsError, match=r"No weights at '.*checkpoint.safetensors'"):
        train(net, dataset, RECIPE, tmp_path, resume=True)
    train(net, dataset, replace(RECIPE, iterations=1), tmp_path)
    with pytest.raises(WeightsError, match="of a run with another recipe"):
        train(net, dataset, RECIPE, tmp_path, resume=True)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:-10])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        train(net, dataset, RECIPE, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(net, camvid, tmp_path):
    train(net, CamVid(camvid, "train"), replace(RECIPE, iterations=2), tmp_path)
    kept = (tmp_path / CHECKPOINT).read_bytes()
    torch.nn.init.constant_(net.segmentation_head[0].bias, float("nan"))
    with pytest.raises(FloatingPointError, match="The loss is nan at step 0"):
        train(net, CamVid(camvid, "train"), RECIPE, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == kept


def test_the_loss_is_cross_entropy_and_the_auxiliary_share(net):
    net.eval()
    x, masks = torch.randn(2, 3, 32, 32), torch.randint(0, 11, (2, 32, 32))
    masks[0, :9] = 255
    logits, aux = net(x, return_aux=True)
    expected = sum(w * torch.nn.functional.cross_entropy(y, masks, ignore_index=255) for w, y in ((1, logits), (0.4, aux)))
    torch.testing.assert_close(segmentation_loss(net, x, masks, 0.4), expected)
    assert segmentation_loss(net, x, torch.full_like(masks, 255), 0.4) == 0


def test_class_weights_make_the_loss_a_weighted_mean(net):
    net.eval()
    x, masks, weights = torch.randn(2, 3, 32, 32), torch.randint(0, 11, (2, 32, 32)), torch.rand(11) + 0.1
    masks[1, :, :5] = 255
    outputs = zip((1, 0.4), net(x, return_aux=True), strict=True)
    expected = sum(w * torch.nn.functional.cross_entropy(y, masks, weights, ignore_index=255) for w, y in outputs)
    torch.testing.assert_close(segmentation_loss(net, x, masks, 0.4, weights), expected)


def test_class_shares_are_of_the_pixels_that_count(camvid):
    dataset = CamVid(camvid, "train")
    masks = torch.stack([dataset[i][1].as_subclass(torch.Tensor) for i in range(len(dataset))])
    shares = class_shares(dataset)
    assert shares.sum() == pytest.approx(1) and shares[8] == pytest.approx(((masks == 8).sum() / (masks != 255).sum()).item())


def test_a_recipe_with_class_weights_trains(net, camvid, tmp_path):
    assert train(net, CamVid(camvid, "train"), replace(RECIPE, iterations=1, class_weight_power=0.25), tmp_path) == 1


@pytest.mark.parametrize("field", ["iterations", "batch_size", "lr", "checkpoint_every", "crop"])
def test_a_recipe_refuses_what_is_not_positive(field):
    with pytest.raises(ValueError, match=f"{field} is"):
        replace(RECIPE, **{field: (0, 32) if field == "crop" else 0})
