"""Training with several classes a pixel: losses, crops, micro-batches, and what is refused."""

import copy
from dataclasses import replace

import pytest
import segmentation_models_pytorch as smp
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision import tv_tensors

from pspnet_zoo import from_pretrained
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.training.loss import pixel_mass, segmentation_loss
from pspnet_zoo.training.methods.losses import LibraryLosses
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.train import train
from pspnet_zoo.training.transforms import RandomCrop

RECIPE = Recipe(iterations=2, batch_size=4, crop=(48, 40), lr=0.02, head_factor=3, freeze="norms", evaluate_every=0)


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def pair():
    logits, masks = torch.randn(2, 3, 16, 20), torch.randint(0, 2, (2, 3, 16, 20))
    masks[0, :2, :5] = 255
    return logits, masks


def test_the_cross_entropy_is_torchs_binary_one(pair):
    logits, masks = pair
    counted = masks != 255
    expected = binary_cross_entropy_with_logits(logits[counted], masks[counted].float())
    torch.testing.assert_close(segmentation_loss(logits, masks), expected)
    torch.testing.assert_close(segmentation_loss((logits, logits), masks, aux_weight=0.4), 1.4 * expected)
    smoothed = masks[counted] * 0.8 + 0.1
    expected = binary_cross_entropy_with_logits(logits[counted], smoothed)
    torch.testing.assert_close(segmentation_loss(logits, masks, label_smoothing=0.2), expected)
    assert pixel_mass(masks) == counted.sum()
    assert segmentation_loss(logits, torch.full_like(masks, 255), dice_weight=1.0) == 0


def test_dice_is_the_mean_of_the_classes_that_occur(pair):
    logits, masks = pair
    masks[:, 2][masks[:, 2] == 1] = 0
    parts = []
    for k in range(2):
        counted = masks[:, k] != 255
        p, t = logits[:, k][counted].sigmoid(), masks[:, k][counted]
        parts.append(1 - 2 * (p * t).sum() / (p.sum() + t.sum()))
    torch.testing.assert_close(segmentation_loss(logits, masks, ce_weight=0.0, dice_weight=1.0), torch.stack(parts).mean())


def test_other_losses_are_the_librarys(pair):
    """Of the library's multilabel losses, focal fails with ignored pixels, and Lovasz takes all classes for one."""
    logits, masks = pair
    whole = masks.where(masks != 255, 0)
    lovasz = smp.losses.LovaszLoss("binary", ignore_index=255)
    cases = (
        ("focal_weight", whole, smp.losses.FocalLoss("multilabel", gamma=3.0)(logits, whole)),
        ("tversky_weight", masks, smp.losses.TverskyLoss("multilabel", alpha=0.2, beta=0.9, ignore_index=255)(logits, masks)),
        ("lovasz_weight", masks, sum(lovasz(logits[:, k : k + 1], masks[:, k]) for k in range(3)) / 3),
    )
    for name, truth, expected in cases:
        ours = LibraryLosses(**{name: 0.7}, focal_gamma=3.0, tversky_alpha=0.2, tversky_beta=0.9)
        torch.testing.assert_close(segmentation_loss(logits, truth, library=ours, ce_weight=0.0), 0.7 * expected, msg=name)


@pytest.mark.parametrize(
    "changes",
    [{}, {"dice_weight": 0.5, "focal_weight": 1.0, "label_smoothing": 0.1}, {"ohem_threshold": 0.5, "ohem_min_kept": 50}],
    ids=["cross entropy", "dice and focal", "hard pixels"],
)
def test_a_step_is_the_same_in_one_micro_batch_and_in_four(multilabel_net, circles, tmp_path, changes):
    for module in multilabel_net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    dataset, divided, losses = open_dataset("folder", circles, "train"), copy.deepcopy(multilabel_net), {1: [], 4: []}
    for parts, network in ((1, multilabel_net), (4, divided)):
        recipe = replace(RECIPE, accumulation=parts, **changes)
        show = lambda step, loss, rate, parts=parts: losses[parts].append(loss)  # noqa: E731
        train(network, dataset, recipe, tmp_path / str(parts), progress=show)
    assert losses[1] == pytest.approx(losses[4], rel=1e-5)
    for (key, a), b in zip(multilabel_net.named_parameters(), divided.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=key)


def test_ignored_pixels_change_nothing(pair):
    logits, masks = pair
    other = logits.where(masks != 255, torch.randn_like(logits))
    library = LibraryLosses(focal_weight=1.0, tversky_weight=1.0)
    options = {"dice_weight": 1.0, "library": library}
    torch.testing.assert_close(segmentation_loss(other, masks, **options), segmentation_loss(logits, masks, **options))


def test_rare_crops_are_centred_on_a_class_and_crops_of_one_class_are_drawn_again():
    mask = torch.zeros(2, 60, 60, dtype=torch.uint8)
    mask[0], mask[1, 40, 20] = 1, 1
    image = tv_tensors.Image(torch.zeros(3, 60, 60, dtype=torch.uint8))
    torch.manual_seed(0)
    rare = RandomCrop((9, 9), [0.0] * 3, 0.0, 1.0, rare=1.0)
    found = [rare(image, tv_tensors.Mask(mask))[1] for _ in range(20)]
    assert sum(bool(crop[1, 4, 4]) for crop in found) >= 18  # one pixel of 3601 is drawn nearly always
    mask[0, :, 30:] = 0
    again = RandomCrop((20, 20), [0.0] * 3, 0.0, 0.75)
    found = [again(image, tv_tensors.Mask(mask))[1] for _ in range(20)]
    assert sum((crop[0] == 1).double().mean().item() >= 0.75 for crop in found) <= 2


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_start_is_measured_with_its_threshold_which_the_trained_network_has_not(multilabel_net, circles, tmp_path, ema_decay):
    multilabel_net.threshold = (0.55, 0.4, 0.5)
    dataset, validation = (open_dataset("folder", circles, split) for split in ("train", "val"))
    copied, recipe = copy.deepcopy(multilabel_net), replace(RECIPE, evaluate_every=1, ema_decay=ema_decay)
    result = train(multilabel_net, dataset, recipe, tmp_path, validation=validation, measure_start=True)
    start = evaluate(copied, validation).miou
    copied.threshold = None
    assert result.start_miou == pytest.approx(start) and start != pytest.approx(evaluate(copied, validation).miou)
    assert multilabel_net.threshold is None and from_pretrained(tmp_path / "best").threshold is None
    assert result.last_miou == pytest.approx(evaluate(multilabel_net, validation).miou)


def test_what_is_of_classes_that_exclude_each_other_is_refused(multilabel_net, net, circles, tmp_path):
    dataset = open_dataset("folder", circles, "train")
    with pytest.raises(ValueError, match="class_weight_power is 0.3, .* multi-label; set it to 0"):
        train(multilabel_net, dataset, replace(RECIPE, class_weight_power=0.3), tmp_path)
    with pytest.raises(ValueError, match="A teacher's soft labels are of one class a pixel"):
        train(multilabel_net, dataset, RECIPE, tmp_path, teacher=object())
    with pytest.raises(ValueError, match="the dataset has several"):
        train(net, dataset, RECIPE, tmp_path)
