"""Cityscapes' reader: the official layout, both numberings of its ids, and a split without truth."""

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo.data.images import ImageError, read_image
from pspnet_zoo.data.open import open_dataset

# cityscapesScripts helpers/labels.py, written down once more: labelIds that count, in the order of their trainIds
COUNTING = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def label_ids(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize(("split", "count"), [("train", 4), ("val", 3), ("train_extra", 2)])
def test_pairs_are_uint8_with_train_ids(cityscapes, split, count):
    dataset = open_dataset("cityscapes", cityscapes, split)
    assert len(dataset) == len(dataset.images) == len(dataset.masks) == count and len(dataset.labels) == 19
    for index in range(count):
        image, mask = dataset[index]
        assert image.shape == (3, 32, 64) and mask.shape == (32, 64) and image.dtype == mask.dtype == torch.uint8
        raw = label_ids(dataset.masks[index])
        for label in range(34):
            expected = COUNTING.index(label) if label in COUNTING else 255
            assert (mask.numpy()[raw == label] == expected).all()


def test_images_and_masks_are_of_one_frame_in_the_order_of_cities(cityscapes):
    dataset = open_dataset("cityscapes", cityscapes, "train")
    assert [p.parent.name for p in dataset.images] == ["traincity0", "traincity0", "traincity1", "traincity1"]
    for image, mask in zip(dataset.images, dataset.masks, strict=True):
        assert mask.parent.name == image.parent.name
        assert mask.name == image.name.replace("leftImg8bit", "gtFine_labelIds")
        assert (read_image(image)[..., 0] == label_ids(mask) * 7).all()


def test_train_ids_are_read_where_every_image_has_them(cityscapes):
    expected = [open_dataset("cityscapes", cityscapes, "val")[i][1] for i in range(3)]
    masks = open_dataset("cityscapes", cityscapes, "val").masks
    for mask, ids in zip(masks, expected, strict=True):
        assert open_dataset("cityscapes", cityscapes, "val").masks == masks  # not yet every one
        Image.fromarray(ids.numpy()).save(mask.with_name(mask.name.replace("labelIds", "labelTrainIds")))
    dataset = open_dataset("cityscapes", cityscapes, "val")
    assert all(p.name.endswith("_gtFine_labelTrainIds.png") for p in dataset.masks)
    assert all(torch.equal(dataset[i][1], expected[i]) for i in range(3))


def test_the_license_plate_stored_in_eight_bits_is_ignored(cityscapes):
    path = open_dataset("cityscapes", cityscapes, "val").masks[0]
    Image.fromarray(np.full((32, 64), -1, np.int8).view(np.uint8)).save(path)
    assert open_dataset("cityscapes", cityscapes, "val")[0][1].unique().tolist() == [255]


def test_an_id_above_33_is_named(cityscapes):
    path = open_dataset("cityscapes", cityscapes, "val").masks[1]
    Image.fromarray(np.full((32, 64), 34, np.uint8)).save(path)
    with pytest.raises(ImageError, match=rf"{path.name}' holds the ids \[34\]; the dataset has 0 to 33, 255"):
        open_dataset("cityscapes", cityscapes, "val")[1]


def test_the_test_split_gives_its_images_and_says_that_it_has_no_truth(cityscapes):
    dataset = open_dataset("cityscapes", cityscapes, "test")
    assert len(dataset) == len(dataset.images) == 2 and not dataset.masks
    assert [read_image(p).shape for p in dataset.images] == [(32, 64, 3)] * 2
    with pytest.raises(ValueError, match="has no ground truth in this split"):
        dataset[0]


def test_what_is_missing_is_named(cityscapes):
    with pytest.raises(ValueError, match="split is 'all'; Cityscapes has train, val, test, train_extra"):
        open_dataset("cityscapes", cityscapes, "all")
    with pytest.raises(FileNotFoundError, match="No folder '.*nowhere/leftImg8bit/train'"):
        open_dataset("cityscapes", cityscapes / "nowhere", "train")
    open_dataset("cityscapes", cityscapes, "val").masks[2].unlink()
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit.png' has no mask '.*_gtFine_labelIds.png'"):
        open_dataset("cityscapes", cityscapes, "val")
    for file in open_dataset("cityscapes", cityscapes, "test").images:
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"No images in '.*test', named CITY/"):
        open_dataset("cityscapes", cityscapes, "test")


def test_what_is_no_image_is_passed_over(cityscapes):
    city = cityscapes / "leftImg8bit" / "val" / "valcity0"
    for name in ("._valcity0_000000_000019_leftImg8bit.png", "notes.txt"):
        (city / name).write_text("not an image")
    assert len(open_dataset("cityscapes", cityscapes, "val")) == 3
