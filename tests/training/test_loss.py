"""The loss is torch's own cross entropy wherever that is defined."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pspnet_zoo.training.loss import dice_loss, pixel_mass, segmentation_loss


@pytest.fixture
def masks():
    masks = torch.randint(0, 11, (2, 32, 32))
    masks[0, :9] = 255
    return masks


@pytest.fixture
def logits():
    return torch.randn(2, 11, 32, 32)


@pytest.mark.parametrize("weights", [None, torch.rand(11) + 0.1, torch.full((11,), 1e-4)], ids=["alike", "weighted", "tiny"])
def test_the_loss_is_cross_entropy_and_the_auxiliary_share(logits, masks, weights):
    aux = torch.randn_like(logits)
    expected = sum(fraction * cross_entropy(y, masks, weights, ignore_index=255) for fraction, y in ((1, logits), (0.3, aux)))
    torch.testing.assert_close(segmentation_loss((logits, aux), masks, aux_weight=0.3, class_weights=weights), expected)


@pytest.mark.parametrize(
    "options", [{"class_weights": torch.arange(11) + 0.1}, {"ohem_threshold": 0.05, "ohem_min_kept": 9}, {"dice_weight": 0.7}]
)
def test_both_heads_have_the_same_loss(logits, masks, options):
    aux = torch.randn_like(logits)
    expected = segmentation_loss(logits, masks, **options) + 0.4 * segmentation_loss(aux, masks, **options)
    torch.testing.assert_close(segmentation_loss((logits, aux), masks, **options), expected)
    assert abs(expected - segmentation_loss((logits, aux), masks)) > 0.001


def test_where_no_pixel_counts_the_loss_is_zero_and_has_a_gradient(logits, masks):
    logits.requires_grad_()
    loss = segmentation_loss(logits, torch.full_like(masks, 255), ohem_threshold=0.7)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_pixel_mass_counts_each_pixel_with_its_weight(masks):
    weights = torch.rand(11)
    assert pixel_mass(masks) == 2 * 32 * 32 - 9 * 32
    expected = sum(weights[c] * (masks == c).sum() for c in range(11))
    torch.testing.assert_close(pixel_mass(masks, weights), expected)


@pytest.mark.parametrize("occurring", [11, 7, 1])
def test_dice_is_that_of_smp_but_for_the_mean_over_classes_that_occur(logits, masks, occurring):
    masks = masks.where(masks == 255, masks % occurring)
    smps = smp.losses.DiceLoss("multiclass", ignore_index=255)(logits, masks)
    torch.testing.assert_close(dice_loss(logits, masks), smps * 11 / occurring)
    entropy = segmentation_loss((logits, logits), masks)
    both = segmentation_loss((logits, logits), masks, dice_weight=0.5)
    torch.testing.assert_close(both - entropy, 1.4 * 0.5 * dice_loss(logits, masks))


def test_dice_counts_a_class_of_one_pixel(logits, masks):
    masks = masks.where(masks == 255, 0)
    alone = dice_loss(logits, masks)
    masks[1, 5, 5] = 3
    probability = logits.softmax(1)[1, 3, 5, 5]
    predicted = (logits.softmax(1)[:, 3] * (masks != 255)).sum()
    assert dice_loss(logits, masks) == pytest.approx(((alone + 1 - 2 * probability / (predicted + 1)) / 2).item(), abs=1e-3)


def test_dice_is_zero_where_no_pixel_counts_and_where_all_are_right(logits, masks):
    assert dice_loss(logits.requires_grad_(), torch.full_like(masks, 255)) == 0
    sure = torch.nn.functional.one_hot(masks.where(masks != 255, 0), 11).movedim(-1, 1) * 100.0
    assert dice_loss(sure, masks) == pytest.approx(0, abs=1e-6)


def test_a_hundred_thousand_pixels_of_an_image_are_kept_unless_told():
    logits, masks = torch.randn(1, 2, 400, 400), torch.randint(0, 2, (1, 400, 400))
    kept = segmentation_loss(logits, masks, ohem_threshold=1e-3, ohem_min_kept=100_000)
    assert segmentation_loss(logits, masks, ohem_threshold=1e-3) == kept


@pytest.mark.parametrize("min_kept", [0, 10, 700, 100_000])
@pytest.mark.parametrize("threshold", [0.05, 0.3])
def test_hard_pixels_are_those_of_a_sort(logits, masks, threshold, min_kept):
    probabilities, losses = [], []
    for n, y, x in (masks != 255).nonzero().tolist():  # pixel by pixel
        p = logits[n, :, y, x].softmax(0)[masks[n, y, x]].item()
        probabilities.append(p)
        losses.append(-torch.tensor(p).log().item())
    order = sorted(range(len(losses)), key=lambda i: probabilities[i])
    kept = [losses[i] for rank, i in enumerate(order) if probabilities[i] <= threshold or rank < min_kept * 2]
    loss = segmentation_loss(logits, masks, ohem_threshold=threshold, ohem_min_kept=min_kept)
    assert loss.item() == pytest.approx(sum(kept) / len(kept), rel=1e-4)


def test_one_channel_is_trained_by_the_binary_cross_entropy():
    logits = torch.randn(2, 1, 8, 9)
    masks = torch.randint(0, 2, (2, 8, 9))
    expected = binary_cross_entropy_with_logits(logits[:, 0], masks.float())
    torch.testing.assert_close(segmentation_loss(logits, masks), expected)
