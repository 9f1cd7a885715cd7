"""Train the bundled street weights on CamVid and LabelMeFacade together.

    torchrun --nproc-per-node 2 -m tools.train_streets --camvid CAMVID_ALL --facade FACADE -o runs/streets --init runs/at_2 \
        --teacher runs/at_1.5

FACADE is the folder that tools/facade_data.py prepares. Its masks know six of CamVid's eleven classes: poles, signs, fences,
people and bicycles are drawn as what is behind them. So a photo's mask is taken as a statement that a pixel is of its class or
of one of these five, and the teachers decide which:

- The soft labels of a photo are the teachers' probabilities of the classes that its mask allows, with PRIOR added to the mask's
  own class, divided by their sum.
- For the cross entropy and the Dice loss, a pixel whose most likely class is then one of the five is ignored, or has that class
  where its probability is SURE or more.

CamVid's masks know all classes and are used as they are, beside the teachers' plain probabilities.
"""

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

from pspnet_zoo.data.dataset import SegmentationDataset
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.data.unlabelled import Joined
from pspnet_zoo.factory import load
from pspnet_zoo.inference.protocols import PROTOCOLS
from pspnet_zoo.meta import IGNORE
from pspnet_zoo.runtimes.open import open_runtime
from pspnet_zoo.training.distill import Teacher, TeacherScores, network_teacher
from pspnet_zoo.training.recipes import RECIPES
from pspnet_zoo.training.train import train

UNKNOWN = (2, 6, 7, 9, 10)
"""pole, signsymbol, fence, pedestrian, bicyclist: CamVid's classes that the masks of LabelMeFacade do not have."""

PRIOR = 0.25
"""Probability that a mask adds to its own class before the allowed ones are divided by their sum, 0 to 1."""

SURE = 0.6
"""Probability from which one of the five stands in a mask."""


class SoftLabels(TeacherScores):
    """The teachers' probabilities that a photo's mask allows; all for the first `whole` images, whose masks know all classes."""

    whole = 0

    def compute(self, index: int) -> Tensor:
        if index < self.whole:
            return super().compute(index)
        scores, mask = super().compute(index).float(), self.dataset.mask(index)
        size = scores.shape[-2:]
        ids = F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0].long()
        return allowed(scores, ids).half()


def allowed(scores: Tensor, ids: Tensor) -> Tensor:
    """The probabilities that are left where a mask allows its own class and the unknown ones.

    Args:
        scores: (C, h, w), 0 to 1.
        ids: (h, w) int64, 255 where the mask says nothing.
    """
    own = F.one_hot(ids.where(ids != IGNORE, 0), len(scores)).permute(2, 0, 1).float()
    possible = own.clone()
    possible[list(UNKNOWN)] = 1
    left = scores * possible + PRIOR * own
    return torch.where(ids == IGNORE, scores, left / left.sum(dim=0))


class Streets(Joined):
    """CamVid, and photos whose masks know fewer classes."""

    def __init__(self, camvid: SegmentationDataset, facade: SegmentationDataset, times: int = 1) -> None:
        super().__init__([camvid, *[facade] * times])
        self.whole = len(camvid)
        self.soft_labels: SoftLabels | None = None

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        image, mask = super().__getitem__(index)
        if index < self.whole or self.soft_labels is None:
            return image, mask
        scores = F.interpolate(self.soft_labels[index][None].float(), size=mask.shape, mode="bilinear")[0]
        probability, best = scores.max(dim=0)
        unknown = torch.isin(best, torch.tensor(UNKNOWN))
        instead = torch.where(probability >= SURE, best, IGNORE).to(torch.uint8)
        return image, tv_tensors.Mask(torch.where(unknown, instead, mask.as_subclass(Tensor)))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--facade", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--teacher", action="append", required=True)
    parser.add_argument("--soft-labels", type=Path, help="Folder of the teachers' probabilities; OUTPUT/teacher if left out.")
    parser.add_argument("--times", type=int, default=1, help="How often each photo is in an epoch; an image of CamVid is once.")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.00015)
    parser.add_argument("--crop", type=int, nargs=2, default=(432, 576))
    parser.add_argument("--scale", type=float, nargs=2, default=(0.6, 1.3))
    parser.add_argument("--ema-decay", type=float, default=0.98)
    parser.add_argument("--freeze", default="norms", help="What is not trained, as of `pspnet-zoo train`.")
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help="'bf16' on processors with such instructions.")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--only-soft-labels", action="store_true", help="Compute the soft labels and stop.")
    arguments = parser.parse_args()
    recipe = replace(
        RECIPES["camvid"].recipe,
        iterations=arguments.iterations,
        batch_size=arguments.batch_size,
        crop=tuple(arguments.crop),
        lr=arguments.lr,
        scale=tuple(arguments.scale),
        weight_decay=0.02,
        optimizer="adamw",
        warmup=10,
        clip_grad=1.0,
        dice_weight=1,
        aux_weight=0,
        ema_decay=arguments.ema_decay,
        precision=arguments.precision,
        freeze=arguments.freeze,
        evaluate_every=0,
        checkpoint_every=20,
        seed=arguments.seed,
    )
    photos = open_dataset("folder", arguments.facade, "train")
    dataset = Streets(open_dataset("camvid", arguments.camvid, "train"), photos, arguments.times)
    networks = [
        open_runtime(name, device="cpu", precision="bfloat16" if arguments.precision == "bf16" else "float32")
        for name in arguments.teacher
    ]
    teachers: list[Teacher] = [network_teacher(network, PROTOCOLS["whole"], dataset.labels) for network in networks]
    # other soft labels than those of these teachers alone have another name
    teachers = [replace(teacher, name=f"{teacher.name} {UNKNOWN} {PRIOR}") for teacher in teachers]
    soft_labels = SoftLabels(arguments.soft_labels or arguments.output / "teacher", teachers, dataset, stride=2)
    soft_labels.whole = dataset.whole
    if arguments.only_soft_labels:
        soft_labels.prepare()
        return
    dataset.soft_labels = soft_labels
    network = load(arguments.init, classes=len(dataset.labels))
    network.labels = dataset.labels
    network.provenance = {
        "data": f"CamVid, {dataset.whole} images; LabelMeFacade, {len(photos)} photos, {arguments.times} times an epoch",
        "start": arguments.init,
        "start_provenance": network.provenance,
        "recipe": asdict(recipe),
        "teachers": arguments.teacher,
    }
    result = train(network, dataset, recipe, arguments.output, teacher=soft_labels, resume=arguments.resume, workers=1, cpu=True)
    if result.is_complete and int(os.environ.get("RANK", "0")) == 0:
        print(f"Wrote {network.save_pretrained(arguments.output / 'model')}")


if __name__ == "__main__":
    main()
