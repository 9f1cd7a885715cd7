"""Label sets hold together."""

import pytest

from pspnet_zoo.data.labels import CAMVID, VOC, Labels, distinct_colors


def test_camvid_has_eleven_classes_of_distinct_colours():
    assert len(CAMVID) == len(set(CAMVID.colors)) == len(set(CAMVID.names)) == 11


@pytest.mark.parametrize("colors", [((1, 2, 3),), ((1, 2, 3), (1, 2)), ((1, 2, 3), (1, 2, 256)), ((1, 2, 3), (0.5, 0, 0))])
def test_names_without_a_true_colour_are_refused(colors):
    with pytest.raises(ValueError, match="color"):
        Labels(("a", "b"), colors)


def test_default_colours_are_vocs_without_black_and_all_differ():
    assert distinct_colors(20) == VOC.colors[1:]
    assert len(set(distinct_colors(255))) == 255 and (0, 0, 0) not in distinct_colors(255)
