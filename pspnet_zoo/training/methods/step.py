"""One optimizer step: forward and backward of each micro-batch, then the weights."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ...runtimes.cpu.depthwise import FastDepthwise
from ..distill import counted_pixels, distillation_loss
from ..loss import pixel_mass, segmentation_loss
from ..run import Run
from ..stream import Stream, seed_of
from .features import features_given
from .losses import LibraryLosses

Outputs = Tensor | tuple[Tensor, ...]
"""Logits, or the pair with the auxiliary head's."""


class OptimizerStep:
    """One optimizer step, with the same loss and gradient however the batch is divided into processes and micro-batches.

    The cross entropy and the distillation loss are means over pixels, so that each micro-batch contributes its fraction of them.
    The other losses, and hard example mining, are not: they are computed of the logits of the whole batch, which the processes
    exchange. With several micro-batches, whose graphs would not fit into memory together, the logits are computed first without
    gradients, and once more for the gradient.
    """

    def __init__(self, run: Run, stream: Stream, compile: bool) -> None:
        self.run, self.stream = run, stream
        recipe = run.recipe
        self.forward = torch.compile(run.network) if compile else run.network
        self.library = LibraryLosses(
            focal_weight=recipe.focal_weight,
            focal_gamma=recipe.focal_gamma,
            lovasz_weight=recipe.lovasz_weight,
            tversky_weight=recipe.tversky_weight,
            tversky_alpha=recipe.tversky_alpha,
            tversky_beta=recipe.tversky_beta,
        )
        is_divided = recipe.accumulation * run.accelerator.num_processes > 1
        self.takes_whole_batches = is_divided and bool(recipe.dice_weight or recipe.ohem_threshold or self.library)
        # float32 is no faster by parts, see benchmarks/depthwise.py
        by_parts = run.accelerator.device.type == "cpu" and recipe.precision == "bf16" and not compile
        self.convolutions = FastDepthwise() if by_parts else nullcontext()

    def __call__(self, micro_batches: list[list[Tensor]]) -> Tensor:
        """This process's part of the step's loss, from (images, masks, positions, targets, features...) of each micro-batch."""
        run, accelerator = self.run, self.run.accelerator
        micro_batches = [[tensor.to(accelerator.device) for tensor in batch] for batch in micro_batches]
        masses = [self.mass(masks, targets) for _, masks, _, targets, *_ in micro_batches]
        # every pixel of the step counts alike, whichever process or micro-batch it is in
        mean_mass = run.mean(torch.stack(masses).sum(dim=0)).clamp(min=1e-6)
        total = torch.zeros((), device=accelerator.device)
        first = self.first_pass(micro_batches) if self.takes_whole_batches else []
        whole = self.whole_batch(micro_batches, first) if first else None
        first = first if len(first) == 1 else []  # the logits of several are not needed any more
        for index, ((images, masks, positions, targets, *features), mass) in enumerate(zip(micro_batches, masses, strict=True)):
            is_last = index + 1 == run.recipe.accumulation
            with nullcontext() if is_last else accelerator.no_sync(run.network):
                outputs = first[0] if first else self.outputs(index, images, features)
                loss = self.distillation(outputs, targets, (mass / mean_mass)[1])
                if whole is None:
                    loss = loss + self.loss(outputs, masks) * (mass / mean_mass)[0]
                    self.check(loss, positions)
                    accelerator.backward(loss)
                else:
                    value, gradients = whole
                    loss = loss + value / len(micro_batches)
                    self.check(loss, positions)
                    by_logits = sum((o * g[index]).sum() for o, g in zip(_parts(outputs), gradients, strict=True))
                    accelerator.backward(loss + by_logits)
            total += loss.detach()
        run.take_step()
        return total

    def outputs(self, index: int, images: Tensor, features: list[Tensor]) -> Outputs:
        """Logits of (N, C, H, W) images, or of their features; the same whenever this micro-batch of the step is computed."""
        run, model = self.run, self.run.model
        number = (run.step * run.recipe.accumulation + index) * run.accelerator.num_processes + run.accelerator.process_index
        torch.manual_seed(seed_of(run.recipe.seed, number))  # dropout
        x = model.preprocess(images).contiguous(memory_format=torch.channels_last)
        with self.convolutions, features_given(model.encoder, features):
            return self.forward(x, return_aux=model.auxiliary_head is not None)

    def first_pass(self, micro_batches: Sequence[list[Tensor]]) -> list[Outputs]:
        """The logits of each micro-batch, before the loss of all is known; with their graph where there is one micro-batch."""
        if len(micro_batches) == 1:
            return [self.outputs(0, micro_batches[0][0], micro_batches[0][4:])]
        buffers = list(self.run.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        with torch.no_grad():
            outputs = [self.outputs(index, batch[0], batch[4:]) for index, batch in enumerate(micro_batches)]
        for buffer, value in zip(buffers, before, strict=True):  # statistics of batch norms change in the second pass
            buffer.copy_(value)
        return outputs

    @torch.no_grad()
    def whole_batch(
        self, micro_batches: Sequence[list[Tensor]], outputs: Sequence[Outputs]
    ) -> tuple[Tensor, list[Sequence[Tensor]]]:
        """The loss of the step's whole batch, and its gradient by the logits of each head and micro-batch of this process."""
        accelerator, computed = self.run.accelerator, [_parts(each) for each in outputs]
        own = [torch.cat(heads) for heads in zip(*computed, strict=True)]
        logits: list[Any] = [accelerator.gather(each.contiguous()) for each in own]
        masks: Any = accelerator.gather(torch.cat([batch[1] for batch in micro_batches]))
        with torch.enable_grad():
            leaves = [each.float().requires_grad_() for each in logits]
            loss = self.loss(leaves[0] if len(leaves) == 1 else (leaves[0], leaves[1]), masks)
            gradients = torch.autograd.grad(loss, leaves)
        first, count = len(own[0]) * accelerator.process_index, len(own[0])
        # the processes' gradients are averaged
        mine = [gradient[first : first + count] * accelerator.num_processes for gradient in gradients]
        return loss.detach(), [each.chunk(len(micro_batches)) for each in mine]

    def mass(self, masks: Tensor, targets: Tensor) -> Tensor:
        """(2,) float: the pixels that count in the loss of the masks, and in the distillation loss."""
        distilled = counted_pixels(targets, self.run.recipe.teacher_confidence).sum().float()
        return torch.stack([pixel_mass(masks, self.run.class_weights), distilled])

    def loss(self, outputs: Any, masks: Tensor) -> Tensor:
        """The loss of logits against (N, H, W) class ids, or (N, C, H, W) masks of multi-label."""
        recipe = self.run.recipe
        return segmentation_loss(
            outputs,
            masks,
            aux_weight=recipe.aux_weight,
            class_weights=self.run.class_weights,
            ohem_threshold=recipe.ohem_threshold,
            ohem_min_kept=recipe.ohem_min_kept,
            dice_weight=recipe.dice_weight,
            ce_weight=recipe.ce_weight,
            label_smoothing=recipe.label_smoothing,
            library=self.library,
        )

    def distillation(self, outputs: Any, targets: Tensor, fraction: Tensor) -> Tensor:
        """The loss against soft labels, which have this fraction of the step's pixels that count; 0 without a teacher."""
        recipe, teacher = self.run.recipe, self.stream.teacher
        if teacher is None:
            return torch.zeros((), device=fraction.device)
        divergence = distillation_loss(
            outputs,
            targets,
            known=teacher.known,
            temperature=recipe.teacher_temperature,
            confidence=recipe.teacher_confidence,
            aux_weight=recipe.aux_weight,
        )
        return recipe.teacher_weight * divergence * fraction

    def check(self, loss: Tensor, positions: Tensor) -> None:
        """Refuse a loss from which no network comes back."""
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {self.run.step}; lower the learning rate ({self.run.recipe.lr}), or look at "
                + ", ".join(f"'{self.stream.path(int(p))}'" for p in positions)
            )


def _parts(outputs: Outputs) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
