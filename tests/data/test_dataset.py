"""A dataset of one's own is read as it is meant, or refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from pspnet_zoo import Labels
from pspnet_zoo.data.check import mask_doubts
from pspnet_zoo.data.dataset import CheckedDataset, as_segmentation_dataset
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.data.pairs import list_images
from pspnet_zoo.data.unlabelled import Unlabelled

LABELS = Labels(("road", "sky", "car"))
PIXELS = torch.arange(3 * 4 * 6, dtype=torch.uint8).view(3, 4, 6)
IDS = torch.tensor([[0, 1, 2, 255, 0, 0]] * 4)


class Own:
    """A dataset of one item, as people write them."""

    def __init__(self, item, labels=LABELS):
        self.item, self.labels = item, labels

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.item


@pytest.mark.parametrize(
    "item",
    [
        (PIXELS, IDS),
        [PIXELS, IDS.to(torch.uint8)[None]],
        {"image": PIXELS.permute(1, 2, 0).numpy(), "mask": IDS.numpy().astype(np.int32)},
        (Image.fromarray(PIXELS.permute(1, 2, 0).numpy()), Image.fromarray(IDS.numpy().astype(np.uint8))),
    ],
)
def test_tensors_arrays_images_and_dictionaries_are_read_alike(item):
    dataset = CheckedDataset(Own(item))
    image, mask = dataset[0]
    assert torch.equal(image, PIXELS) and torch.equal(mask, IDS.to(torch.uint8)) and mask.dtype == torch.uint8
    assert torch.equal(dataset.mask(0), mask) and [str(path) for path in dataset.images] == ["item 0"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((PIXELS / 255, IDS), "'item 0': the image is of type torch.float32; it must be uint8, 0 to 255"),
        ((PIXELS[:1], IDS), r"the image is \(1, 4, 6\); it must be \(3, H, W\)"),
        ((PIXELS, IDS + 1), r"the mask holds the class ids \[3, 256\]; there are 3 classes, 0 to 2, and 255"),
        ((PIXELS, IDS - 1), r"the mask holds the class ids \[-1, 254\]"),
        ((PIXELS, IDS.float()), "must be .H, W. class ids"),
        ((PIXELS, IDS[:2]), "the image is 6x4 pixels and the mask 6x2"),
        (PIXELS, "an item must be .image, mask."),
        ("a.png", "is a str; an item must be"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(item, message):
    with pytest.raises(ValueError, match=message):
        CheckedDataset(Own(item))[0]


def test_labels_come_from_the_dataset_or_from_the_caller():
    tensors = TensorDataset(PIXELS[None], IDS[None])
    with pytest.raises(ValueError, match="The dataset has no labels"):
        as_segmentation_dataset(tensors)
    assert as_segmentation_dataset(tensors, LABELS).labels is LABELS and len(as_segmentation_dataset(tensors, LABELS)) == 1
    assert as_segmentation_dataset(Own((PIXELS, IDS)), Labels(("other",))).labels is LABELS
    once = as_segmentation_dataset(tensors, LABELS)
    assert as_segmentation_dataset(once) is once


def test_a_subset_has_the_labels_files_and_masks_of_its_dataset(camvid):
    whole = open_dataset("camvid", camvid, "train")
    part = as_segmentation_dataset(Subset(Subset(whole, [4, 2, 0]), [2, 0]))
    assert part.labels is whole.labels and list(part.images) == [whole.images[0], whole.images[4]]
    assert list(part.masks) == [whole.masks[0], whole.masks[4]] and len(part) == 2
    for index, original in ((0, 0), (1, 4)):
        assert torch.equal(part[index][0], whole[original][0]) and torch.equal(part.mask(index), whole.mask(original))


class Masks:
    """A dataset of masks alone, each of two ids."""

    labels = Labels(("background", "crack"))
    images = ()

    def __init__(self, *ids):
        self.masks = ids
        self.read = []

    def __len__(self):
        return len(self.masks)

    def mask(self, index):
        self.read.append(index)
        return torch.tensor([self.masks[index]], dtype=torch.uint8)


def test_masks_of_0_and_255_are_told_from_a_few():
    error, warnings = mask_doubts(Masks((0, 255), (255, 255)))
    assert error == "The masks hold nothing but 0, which is 'background', and 255, which is ignored. If 255 is 'crack', write 1"
    assert warnings == []
    assert mask_doubts(Masks((0, 255), (1, 0))) == (None, [])
    assert mask_doubts(Masks((0, 255), (0, 1), (0, 255)), most=2) == (None, []), "one that was not among the few"
    assert mask_doubts(Masks((0, 0))) == (None, ["No pixel is of 'crack'"])


def test_a_large_dataset_is_sampled_evenly_and_rare_classes_may_be_missed():
    masks = Masks(*[(0, 0)] * 100)
    assert mask_doubts(masks, most=3) == (None, []) and masks.read == [0, 50, 99]


def test_images_without_masks_may_differ_in_their_ending_only(tmp_path):
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    assert [path.name for path in Unlabelled(tmp_path, LABELS).images] == ["a.bmp", "a.png"]
    with pytest.raises(ValueError, match="would share the mask a.png"):
        list_images(tmp_path)
