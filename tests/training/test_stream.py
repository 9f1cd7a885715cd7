"""Which images a step takes, and the seeds of what is random."""

from itertools import product

import pytest
import torch

from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.stream import Stream, batches, mask_class_fractions, seed_of


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("start", [0, 1])
def test_a_step_takes_the_next_images_whichever_process_and_part_they_are_in(processes, accumulation, start):
    recipe = Recipe(iterations=4, batch_size=12, crop=(8, 8), lr=0.1, accumulation=accumulation)
    class_fractions = [list(batches(recipe, start, process, processes)) for process in range(processes)]
    assert {len(fraction) for fraction in class_fractions} == {(4 - start) * accumulation}
    for step in range(start, 4):
        parts = slice((step - start) * accumulation, (step - start + 1) * accumulation)
        taken = [position for fraction in class_fractions for part in fraction[parts] for position in part]
        assert sorted(taken) == list(range(12 * step, 12 * (step + 1)))
    assert {len(part) for fraction in class_fractions for part in fraction} == {12 // (processes * accumulation)}


def test_no_two_seeds_are_alike_and_torch_takes_each():
    seeds = [seed_of(seed, number) for seed, number in product(range(10), range(-50, 50))]
    assert len(set(seeds)) == 1000 and all(torch.Generator().manual_seed(seed) for seed in seeds)
    assert max(seeds) > 2**62 and min(seeds) >= 0


def test_scales_are_of_the_size_at_which_the_network_sees_an_image(camvid):
    recipe = Recipe(iterations=1, batch_size=1, crop=(8, 8), lr=0.1, scale=(0.5, 2.0))
    stream = Stream(open_dataset("camvid", camvid, "train"), None, recipe, Preprocess((0.5,) * 3, (0.5,) * 3, input_scale=1.5))
    assert stream.transform.transforms[0].scale == (0.75, 3.0)


def test_without_a_teacher_there_is_no_target(camvid):
    recipe = Recipe(iterations=1, batch_size=1, crop=(8, 9), lr=0.1)
    stream = Stream(open_dataset("camvid", camvid, "train"), None, recipe, Preprocess((0.5,) * 3, (0.5,) * 3))
    image, mask, position, target = stream[3]
    assert image.shape == (3, 8, 9) and mask.shape == (8, 9) and position == 3 and target.shape == (0, 8, 9)


class Masks:
    """A dataset of masks alone."""

    labels = CAMVID

    def __init__(self, *masks):
        self.masks = masks

    def __len__(self):
        return len(self.masks)

    def mask(self, index):
        return self.masks[index]


def test_shares_are_of_the_pixels_that_count_in_all_masks():
    masks = Masks(*(torch.tensor([ids], dtype=torch.uint8) for ids in ((0, 0, 255), (10, 1), (1, 1, 1, 1))))
    assert mask_class_fractions(masks).tolist() == [0.25, 0.625, *[0] * 8, 0.125]
    with pytest.raises(ValueError, match="Every pixel of the dataset is ignored"):
        mask_class_fractions(Masks(torch.full((2, 2), 255, dtype=torch.uint8)))
