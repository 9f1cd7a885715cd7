"""Losses are the library's, and the same however a batch is divided."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torchvision import tv_tensors

from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.training.loss import segmentation_loss
from pspnet_zoo.training.methods.losses import LibraryLosses
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.stream import Stream
from pspnet_zoo.training.train import train
from pspnet_zoo.training.transforms import RandomCrop

RECIPE = Recipe(iterations=2, batch_size=4, crop=(32, 48), lr=0.05, head_factor=3, freeze="norms", evaluate_every=0)
LOSSES = {
    "cross entropy": {"label_smoothing": 0.2, "class_weight_power": 0.5},
    "focal": {"ce_weight": 0.0, "focal_weight": 3.0},
    "lovasz": {"ce_weight": 0.0, "lovasz_weight": 1.0},
    "tversky": {"tversky_weight": 1.0, "tversky_alpha": 0.3, "tversky_beta": 0.7},
    "dice": {"dice_weight": 1.0},
    "hard pixels": {"ohem_threshold": 0.05, "ohem_min_kept": 50},
    "all": {"dice_weight": 0.3, "focal_weight": 1.0, "lovasz_weight": 0.2, "tversky_weight": 0.5, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("channels", [1, 5])
def test_each_loss_is_the_librarys(channels):
    mode = "binary" if channels == 1 else "multiclass"
    logits, masks = torch.randn(2, channels, 16, 20), torch.randint(0, max(channels, 2), (2, 16, 20))
    masks[0, :5] = 255
    made = {
        "focal_weight": smp.losses.FocalLoss(mode, gamma=3.0, ignore_index=255),
        "lovasz_weight": smp.losses.LovaszLoss(mode, ignore_index=255),
        "tversky_weight": smp.losses.TverskyLoss(mode, alpha=0.2, beta=0.9, ignore_index=255),
    }
    for name, loss in made.items():
        ours = LibraryLosses(**{name: 0.7}, focal_gamma=3.0, tversky_alpha=0.2, tversky_beta=0.9)
        torch.testing.assert_close(ours(logits, masks), 0.7 * loss(logits, masks))
        torch.testing.assert_close(
            segmentation_loss(logits, masks, library=ours), segmentation_loss(logits, masks) + 0.7 * loss(logits, masks)
        )
        torch.testing.assert_close(segmentation_loss(logits, masks, library=ours, ce_weight=0.0), 0.7 * loss(logits, masks))
        assert ours and ours(logits.requires_grad_(), torch.full_like(masks, 255)) == 0
    assert not LibraryLosses()


def test_smoothed_labels_are_torchs_where_classes_weigh_alike():
    logits, masks = torch.randn(2, 5, 8, 9), torch.randint(0, 5, (2, 8, 9))
    masks[0, :3] = 255
    expected = cross_entropy(logits, masks, ignore_index=255, label_smoothing=0.3)
    for weights in (None, torch.full((5,), 3.0)):
        torch.testing.assert_close(segmentation_loss(logits, masks, class_weights=weights, label_smoothing=0.3), expected)


def test_smoothed_labels_have_the_weight_of_the_pixels_class_so_that_an_absent_class_is_not_learnt():
    weights, masks = torch.tensor([1.0, 2.0, 1000.0]), torch.tensor([[[0, 0, 1, 255]]])
    target = torch.tensor([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [1.0, 0.0, 0.0]]).T[None, :, None]
    logits = target.clamp(min=1e-4).log().requires_grad_()
    segmentation_loss(logits, masks, class_weights=weights, label_smoothing=0.15).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits))  # the least loss is at the smoothed target
    logits = torch.randn(1, 3, 1, 4)
    each = [cross_entropy(logits[..., i], masks[..., i], label_smoothing=0.15) * weights[masks[0, 0, i]] for i in range(3)]
    found = segmentation_loss(logits, masks, class_weights=weights, label_smoothing=0.15)
    torch.testing.assert_close(found, sum(each) / 4)  # the sum of the weights


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_is_the_same_in_one_micro_batch_and_in_four(steady, camvid, tmp_path, name):
    """The images have different numbers of pixels that count."""
    dataset, divided, recipe = open_dataset("camvid", camvid, "train"), copy.deepcopy(steady), replace(RECIPE, **LOSSES[name])
    losses = {1: [], 4: []}
    for parts, network in ((1, steady), (4, divided)):
        train(
            network,
            dataset,
            replace(recipe, accumulation=parts),
            tmp_path / str(parts),
            progress=lambda step, loss, rate, parts=parts: losses[parts].append(loss),
        )
    assert losses[1] == pytest.approx(losses[4], rel=1e-5)
    for (key, a), b in zip(steady.named_parameters(), divided.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=key)


def test_statistics_of_norms_change_once_a_step(steady, camvid, tmp_path):
    """Though the logits are computed twice."""
    dataset, divided = open_dataset("camvid", camvid, "train"), copy.deepcopy(steady)
    recipe = replace(RECIPE, iterations=1, freeze="nothing", accumulation=2, lr=1e-9)
    train(steady, dataset, recipe, tmp_path / "plain")
    train(divided, dataset, replace(recipe, dice_weight=1.0), tmp_path / "dice")
    for name, value in steady.named_buffers():
        torch.testing.assert_close(value, divided.get_buffer(name), msg=name)


WORKER = """
import json, os, sys, torch
from dataclasses import replace
from pathlib import Path
from safetensors.torch import save_file
from pspnet_zoo import PSPNet
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.train import train

data, out, rank = Path(sys.argv[1]), Path(sys.argv[2]), os.environ.get("RANK", "0")
base = Recipe(iterations=2, batch_size=4, crop=(32, 48), lr=0.05, head_factor=3, freeze="norms", evaluate_every=0)
for name, changes in json.loads(sys.argv[3]).items():
    torch.manual_seed(0)
    net = PSPNet("test_efficientnet", None, classes=11, psp_out_channels=16, psp_dropout=0.0, aux_head=True)
    for module in net.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    net.labels = CAMVID
    losses, passes = [], []
    net.register_forward_hook(lambda *_: passes.append(1))
    show = lambda step, loss, rate: losses.append(loss)
    train(net, open_dataset("camvid", data, "train"), replace(base, **changes), out / name, cpu=True, progress=show)
    tensors = {k: v.contiguous() for k, v in net.state_dict().items()}
    tensors |= {"losses": torch.tensor(losses or [0.0, 0.0]), "passes": torch.tensor(len(passes))}
    save_file(tensors, out / f"{name} {rank}.safetensors")
"""


def test_a_step_is_the_same_in_one_process_and_in_two(camvid, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    chosen = {name: LOSSES[name] for name in ("all", "hard pixels")}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", [sys.executable]), ("two", torchrun)):
        (tmp_path / name).mkdir()
        command = [*launcher, script, camvid, tmp_path / name, json.dumps(chosen)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    for name in chosen:
        one, two, other = (
            load_file(tmp_path / f"{where} {rank}.safetensors".replace("?", name))
            for where, rank in (("one/?", 0), ("two/?", 0), ("two/?", 1))
        )
        assert all(torch.equal(two[key], other[key]) for key in two if key != "losses")
        assert two["passes"] == 2, f"{name}: the logits of one micro-batch are computed once a step"
        torch.testing.assert_close(one["losses"], two["losses"], rtol=1e-5, atol=0, msg=name)
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5, msg=f"{name} {key}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"focal_gamma": 3.0}, "focal_gamma is 3.0, but focal_weight is 0, without which it does nothing; set focal_weight too"),
        ({"tversky_beta": 0.7}, "tversky_beta is 0.7, but tversky_weight is 0"),
        ({"ce_weight": 0.0, "dice_weight": 1.0, "label_smoothing": 0.1}, "label_smoothing is 0.1, but ce_weight is 0"),
        ({"ce_weight": 0.0, "dice_weight": 1.0, "ohem_threshold": 0.7}, "ohem_threshold is 0.7, but ce_weight is 0"),
        ({"ce_weight": 0.0}, "Every loss has the weight 0; give one of ce_weight, dice_weight, .* a positive weight"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5; it must be between 0 and 1"),
        ({"rare_crops": 2.0}, "rare_crops is 2.0; it must be between 0 and 1"),
    ],
)
def test_settings_that_do_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **changes)


@pytest.mark.parametrize("rotate", [0.0, 40.0])
def test_crops_are_centred_on_rare_classes(rotate):
    mask = torch.zeros(120, 200, dtype=torch.uint8)
    mask[58:62, 98:102] = 3
    mask[:20] = 255
    pair = tv_tensors.Image(mask.expand(3, -1, -1).clone()), tv_tensors.Mask(mask)

    def hits(rare):
        crop = RandomCrop((17, 17), [0.0] * 3, rotate, 1.0, rare)
        found = []
        for seed in range(60):
            torch.manual_seed(seed)
            found.append(bool((crop(*pair)[1][6:11, 6:11] == 3).any()))  # rounding, and the angle, move it a little
        return sum(found)

    assert hits(0.0) <= 3 and 15 <= hits(0.5) <= 45 and hits(1.0) >= 50  # the other class is drawn 16 times in 22,000


def test_rare_crops_reach_the_edge_and_images_without_pixels():
    mask = torch.zeros(30, 40, dtype=torch.uint8)
    mask[0, 0] = 2
    crop = RandomCrop((16, 16), [0.0] * 3, 0.0, 1.0, 1.0)
    found = [crop(tv_tensors.Image(torch.zeros(3, 30, 40)), tv_tensors.Mask(mask))[1] for _ in range(10)]
    assert sum(bool(each[0, 0] == 2) for each in found) >= 9 and all(each.shape == (16, 16) for each in found)
    crop(tv_tensors.Image(torch.zeros(3, 30, 40)), tv_tensors.Mask(torch.full((30, 40), 255, dtype=torch.uint8)))


def test_rare_crops_arrive_in_the_images(camvid):
    images = open_dataset("camvid", camvid, "train")
    plain, rare = (Stream(images, None, replace(RECIPE, rare_crops=p), Preprocess((0.5,) * 3, (0.5,) * 3)) for p in (0.0, 1.0))
    assert any(not torch.equal(plain[i][1], rare[i][1]) for i in range(5))
