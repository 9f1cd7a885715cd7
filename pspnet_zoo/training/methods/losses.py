"""Losses of segmentation_models_pytorch, combined by their weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...extras import missing_extra
from ...meta import IGNORE


@dataclass(frozen=True)
class LibraryLosses:
    """A weighted sum of losses as segmentation_models_pytorch has them, over all pixels of the batch that are not ignored.

    Networks of one channel have the library's binary losses, others those of several classes. Multi-label ones have the mean over
    the classes of the binary losses: the library's own multi-label focal loss takes no ignored pixels.
    """

    focal_weight: float = 0.0
    focal_gamma: float = 2.0
    lovasz_weight: float = 0.0
    tversky_weight: float = 0.0
    tversky_alpha: float = 0.5
    tversky_beta: float = 0.5

    def __bool__(self) -> bool:
        return bool(self.focal_weight or self.lovasz_weight or self.tversky_weight)

    def __call__(self, logits: Tensor, masks: Tensor) -> Tensor:
        """A scalar for (N, C, H, W) logits and (N, H, W) ids, 255 where ignored; 0 if no pixel counts.

        The masks of multi-label are (N, C, H, W) of 0, 1 and 255.

        Raises:
            MissingExtraError: If the library is not installed.
        """
        try:
            from segmentation_models_pytorch import losses
        except ModuleNotFoundError as error:
            raise missing_extra("A focal, Lovasz or Tversky loss", "train", error) from None
        if masks.ndim == logits.ndim:
            planes = zip(logits.split(1, dim=1), masks.unbind(1), strict=True)
            return torch.stack([self(*plane) for plane in planes]).mean()
        logits = logits.float()
        if not (masks != IGNORE).any():
            return logits.sum() * 0
        mode = "binary" if logits.shape[1] == 1 else "multiclass"
        alpha, beta = self.tversky_alpha, self.tversky_beta
        parts = (
            (self.focal_weight, losses.FocalLoss(mode, gamma=self.focal_gamma, ignore_index=IGNORE)),
            (self.lovasz_weight, losses.LovaszLoss(mode, ignore_index=IGNORE)),
            (self.tversky_weight, losses.TverskyLoss(mode, alpha=alpha, beta=beta, ignore_index=IGNORE)),
        )
        total = logits.new_zeros(())
        for weight, loss in parts:
            if weight:
                total = total + weight * loss(logits, masks)
        return total
