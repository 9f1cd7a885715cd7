"""Label sets against facts about them."""

import pytest

from pspnet_zoo.data import labels
from pspnet_zoo.data.labels import Labels

SIZES = {
    "CITYSCAPES": 19,
    "VOC": 21,
    "ADE20K": 150,
    "PASCAL_CONTEXT": 60,
    "PASCAL_CONTEXT_59": 59,
    "COCO_STUFF": 171,
    "LOVEDA": 7,
    "ISPRS": 6,
    "ISAID": 16,
}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_label_set_has_its_size_and_unique_names(name, size):
    found = getattr(labels, name)
    assert len(found) == len(set(found.names)) == size
    assert all(n == n.strip() for n in found.names)


def test_classes_are_where_the_datasets_have_them():
    assert [labels.CITYSCAPES.names[i] for i in (0, 10, 13, 18)] == ["road", "sky", "car", "bicycle"]
    assert labels.CITYSCAPES.colors[13] == (0, 0, 142)
    assert labels.ADE20K.names[2] == "sky" and labels.ADE20K.colors[2] == (6, 230, 230)
    assert labels.COCO_STUFF.names[79:81] == ("toothbrush", "banner")  # 80 things, then stuff
    assert labels.PASCAL_CONTEXT_59.names == labels.PASCAL_CONTEXT.names[1:]


def test_voc_colours_are_those_of_its_bit_rule():
    """Bit b of the class id's octal digits goes to bit 7 - b of a channel (VOC devkit, VOClabelcolormap.m)."""
    for i, color in enumerate(labels.VOC.colors):
        assert color == tuple(sum((i >> (3 * digit + channel) & 1) << (7 - digit) for digit in range(3)) for channel in range(3))


def test_names_and_colours_must_pair():
    with pytest.raises(ValueError, match="1 class names and 0 colors"):
        Labels(("a",), ())
