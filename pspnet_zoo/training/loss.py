"""The training loss: cross entropy of both heads over the counted pixels, plus other losses by their weights."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.labels import IGNORE
from ..inference.scores import with_background


def segmentation_loss(
    logits: Tensor | tuple[Tensor, Tensor],
    masks: Tensor,
    *,
    aux_weight: float = 0.4,
    class_weights: Tensor | None = None,
    ohem_threshold: float = 0.0,
    ohem_min_kept: int = 100_000,
    dice_weight: float = 0.0,
    ce_weight: float = 1.0,
    label_smoothing: float = 0.0,
    library: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean cross entropy, plus the weighted loss of the auxiliary head where there is one.

    Args:
        logits: (N, C, H, W), or the pair with the auxiliary head's, as of `PSPNet.forward(x, return_aux=True)`. One channel is a
            binary network's, and its loss the binary cross entropy of the ids 0 and 1.
        masks: (N, H, W) int64 ids, 255 where ignored. Of multi-label, (N, C, H, W) of 0, 1 and 255; the cross entropy is then the
            binary one of each class, over all of them that count.
        aux_weight: Weight of the auxiliary loss; the paper has 0.4.
        class_weights: (C,) float; None for all alike. The mean is then a weighted one, as torch's.
        ohem_threshold: Only pixels with a lower probability of their own class count, 0 to 1; 0 for all.
        ohem_min_kept: Least number of pixels an image that count, the least probable ones first.
        dice_weight: Weight of `dice_loss`, which is added for each head.
        ce_weight: Weight of the cross entropy.
        label_smoothing: Part of the target that is spread over all classes, 0 to 1: torch's without class weights. With them, torch
            weighs the part of each class by that class; here all parts have the weight of the pixel's own class.
        library: More losses, which are added for each head, see `pspnet_zoo.training.methods.losses.LibraryLosses`.

    Returns:
        A scalar; of cross entropy alone it is in nats. 0 if no pixel counts.

    Source of the online hard example mining: open-mmlab/mmsegmentation mmseg/structures/sampler/ohem_pixel_sampler.py; the mean is
    over the kept pixels, as in HRNet's and semseg's forks of it.
    """
    if isinstance(logits, tuple):
        main, auxiliary = (
            segmentation_loss(
                part,
                masks,
                class_weights=class_weights,
                ohem_threshold=ohem_threshold,
                ohem_min_kept=ohem_min_kept,
                dice_weight=dice_weight,
                ce_weight=ce_weight,
                label_smoothing=label_smoothing,
                library=library,
            )
            for part in logits
        )
        return main + aux_weight * auxiliary
    others = library(logits, masks) if library else 0.0
    if masks.ndim == logits.ndim:  # multi-label: each class is a binary network of its own
        others = others + (dice_weight * multilabel_dice_loss(logits, masks) if dice_weight else 0.0)
        logits, masks = logits.flatten(0, 1)[:, None], masks.flatten(0, 1)
    elif dice_weight:
        others = others + dice_weight * dice_loss(with_background(logits), masks)
    logits = with_background(logits)
    if not ce_weight:
        return logits.sum() * 0 + others
    if ohem_threshold:
        masks = _hard_pixels(logits.detach(), masks, ohem_threshold, ohem_min_kept)
    total = F.cross_entropy(logits, masks, weight=class_weights, ignore_index=IGNORE, reduction="sum")
    if label_smoothing:
        counted = masks != IGNORE
        # by torch's weights a class that is nowhere, whose weight is large, would be learnt everywhere
        weights = class_weights[masks.where(counted, 0)] * counted if class_weights is not None else counted
        uniform = -(logits.log_softmax(dim=1).mean(dim=1) * weights).sum()
        total = (1 - label_smoothing) * total + label_smoothing * uniform
    # torch's own mean is NaN where no pixel counts
    return ce_weight * total / pixel_mass(masks, class_weights).clamp(min=1e-6) + others


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - the soft Dice coefficient of a class over all images at once, averaged over the classes that occur.

    It counts a class alike however few pixels it has, as mIoU does.

    Args:
        logits: (N, C, H, W).
        masks: (N, H, W) int64 ids, 255 where ignored.

    Returns:
        A scalar, 0 to 1; 0 if no pixel counts.

    Source: Milletari et al. 2016, "V-Net" (arXiv 1606.04797), section 3. segmentation_models_pytorch's DiceLoss sums over the same
    classes and divides by the number of all.
    """
    counted = masks != IGNORE
    classes = masks[counted]
    probability = logits.float().softmax(dim=1)
    own = probability.gather(1, masks.where(counted, 0)[:, None])[:, 0][counted]
    overlap = own.new_zeros(logits.shape[1]).index_add(0, classes, own)
    predicted = (probability * counted[:, None]).sum(dim=(0, 2, 3))
    true = torch.bincount(classes, minlength=logits.shape[1])
    return _one_minus_dice(overlap, predicted, true)


def multilabel_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """`dice_loss` of (N, C, H, W) logits and (N, C, H, W) masks of 0, 1 and 255, by the sigmoid of each class."""
    counted, own = masks != IGNORE, masks == 1
    probability = logits.float().sigmoid()
    overlap, predicted = ((probability * pixels).sum(dim=(0, 2, 3)) for pixels in (own, counted))
    return _one_minus_dice(overlap, predicted, own.sum(dim=(0, 2, 3)))


def _one_minus_dice(overlap: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """The mean over the classes that occur, of (C,) sums."""
    occurs = true > 0
    dice = 2 * overlap / (predicted + true).clamp(min=1e-6)
    return ((1 - dice) * occurs).sum() / occurs.sum().clamp(min=1)


def pixel_mass(masks: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """A float scalar: the pixels that count, each with its class's weight; of multi-label, a pixel counts once for each class."""
    counted = masks[masks != IGNORE]
    return class_weights[counted].sum() if class_weights is not None else torch.tensor(float(counted.numel()), device=masks.device)


def _hard_pixels(logits: Tensor, masks: Tensor, threshold: float, min_kept: int) -> Tensor:
    """The masks, with 255 where the network is sure enough of the ground truth."""
    counted = masks != IGNORE
    ground_truth = masks.where(counted, 0)
    probability = logits.float().softmax(dim=1).gather(1, ground_truth[:, None])[:, 0]  # (N, H, W)
    candidates = probability[counted]
    if candidates.numel():
        rank = min(min_kept * len(masks), candidates.numel())
        threshold = max(threshold, candidates.kthvalue(rank).values.item()) if rank else threshold
    return masks.where(probability <= threshold, IGNORE)
