"""Which images a step takes, and the seeds of what is random."""

import os
import time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.inference.scores import size_factor
from pspnet_zoo.interrupts import SIGNALS
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.storage.errors import WeightsError
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.stream import Stream, batches, mask_class_fractions, read_ahead, seed_of


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


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize(
    ("input_scale", "max_pixels", "factor"),
    [(1.0, 10**6, 1.0), (1.0, 48 * 64, 1.0), (1.5, 10**6, 1.5), (2.0, 108 * 64, 1.5), (1.0, 24 * 32, 0.5), (2.0, 24 * 32, 0.5)],
)
def test_scales_are_of_the_size_at_which_the_network_sees_an_image(camvid, scale, input_scale, max_pixels, factor):
    preprocess = Preprocess((0.5,) * 3, (0.5,) * 3, input_scale=input_scale, max_pixels=max_pixels)
    dataset = open_dataset("camvid", camvid, "train")
    assert size_factor(preprocess, 48, 64) == factor
    recipe = Recipe(iterations=1, batch_size=1, crop=(200, 200), lr=0.1, scale=(scale, scale))
    image = Stream(dataset, None, replace(recipe, photometric=False), preprocess)[0][0]
    rows, columns = ((image != 128).any(0).any(dim).sum().item() for dim in (1, 0))  # the padding is of the mean
    assert (rows, columns) == (48 * factor * scale, 64 * factor * scale)


def test_without_a_teacher_there_is_no_target(camvid):
    recipe = Recipe(iterations=1, batch_size=1, crop=(8, 9), lr=0.1)
    stream = Stream(open_dataset("camvid", camvid, "train"), None, recipe, Preprocess((0.5,) * 3, (0.5,) * 3))
    image, mask, position, target = stream[3]
    assert image.shape == (3, 8, 9) and mask.shape == (8, 9) and position == 3 and target.shape == (0, 8, 9)


@pytest.mark.parametrize("kind", ["six bands", "rgb"])
def test_a_crop_of_a_large_raster_is_read_as_a_window(tmp_path, monkeypatch, kind):
    pytest.importorskip("rasterio", reason="the extra raster is not installed")
    from pspnet_zoo.data import rasters
    from pspnet_zoo.data.dataset import as_segmentation_dataset
    from pspnet_zoo.data.stats import pixel_stats, write_preprocess
    from tests.data.test_rasters import noise, write_tiff

    size = (400, 300)
    for folder in ("images", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    pixels = noise("float32", 6, size) if kind == "six bands" else noise("uint8", 3, size)
    mask = (pixels[0] > np.median(pixels[0])).astype(np.uint8)
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    image = write_tiff(tmp_path / "train" / "images" / "a.tif", pixels, **blocks)
    write_tiff(tmp_path / "train" / "masks" / "a.tif", mask[None], **blocks)
    (tmp_path / "classes.txt").write_text("low\nhigh\n")
    preprocess = Preprocess((0.5,) * 3, (0.5,) * 3)
    if kind == "six bands":
        preprocess = pixel_stats([image])[0].preprocess()
        write_preprocess(tmp_path, preprocess)
    dataset = as_segmentation_dataset(open_dataset("folder", tmp_path, "train"))
    recipe = Recipe(iterations=1, batch_size=1, crop=(24, 32), lr=0.1, scale=(1.0, 1.0), photometric=False)
    monkeypatch.setattr("pspnet_zoo.training.stream.LARGE", 10_000)
    regions, read = [], rasters.Raster.read
    monkeypatch.setattr(rasters.Raster, "read", lambda self, region=None: (regions.append(region), read(self, region))[1])
    few = replace(preprocess, max_pixels=200)  # to which images of full size are not shrunk
    stream, places = Stream(dataset, None, replace(recipe, full_size=True), few), set()
    for position in range(6):
        image, mask, *_ = stream[position]
        assert image.shape[1:] == (24, 32) and mask.shape == (24, 32) and (mask != 255).all()
        assert torch.equal(image[0] > float(np.median(pixels[0])), mask == 1)  # image and mask are of one place
        assert torch.equal(image, stream[position][0])
    assert all(region.height <= 26 and region.width <= 34 for region in regions)
    places = {(region.top, region.left) for region in regions}
    assert len(places) == 6
    half, shrunk = replace(preprocess, max_pixels=400 * 300 // 4), []
    for large in (10_000, 2**24):  # the size does not depend on how the file is read
        monkeypatch.setattr("pspnet_zoo.training.stream.LARGE", large)
        regions.clear()
        shrunk.append(Stream(dataset, None, replace(recipe, crop=(200, 150)), half)[0])
        assert regions in ([], [None])
    assert stream._large(0) is None
    assert torch.equal(shrunk[0][0], shrunk[1][0]) and torch.equal(shrunk[0][1], shrunk[1][1]) and (shrunk[0][1] != 255).all()
    monkeypatch.setattr("pspnet_zoo.training.stream.LARGE", 10_000)
    regions.clear()
    assert Stream(dataset, None, recipe, half)[0][0].shape[1:] == (24, 32)
    assert {(region.height, region.width) for region in regions} == {(50, 66)}  # a window holds the crop at half the size


class Workers:
    """A dataset whose items are the process that reads them."""

    def __getitem__(self, position):
        return torch.tensor([os.getpid()])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_that_reads_images_outlives_the_signals_of_its_process_group(number):
    with read_ahead(Workers(), [[position] for position in range(12)], 1) as items:
        worker = next(items).item()
        os.kill(worker, number)
        time.sleep(0.2)
        assert {item.item() for item in items} == {worker} != {os.getpid()}


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


def test_a_damaged_file_of_the_cache_is_an_item_and_not_a_workers_traceback(camvid):
    class Damaged:
        def __getitem__(self, place):
            raise WeightsError("features/a.safetensors is damaged")

    recipe = Recipe(iterations=1, batch_size=1, crop=(8, 8), lr=0.1)
    stream = Stream(open_dataset("camvid", camvid, "train"), None, recipe, Preprocess((0.5,) * 3, (0.5,) * 3))
    stream.cache = Damaged()
    assert isinstance(stream[0], WeightsError)
