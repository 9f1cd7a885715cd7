"""Names that users import."""

import pytest

import pspnet_zoo

NAMES = (
    "Labels PSPNet Prediction Predictor WeightsError convert "
    "create find_checkpoint from_pretrained list_backbones list_models load save_pretrained"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_every_public_name_is_there_and_is_the_same_twice(name):
    assert getattr(pspnet_zoo, name) == getattr(pspnet_zoo, name)
    assert name in dir(pspnet_zoo)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'creat'"):
        pspnet_zoo.creat  # noqa: B018


def test_the_version_is_that_of_the_metadata_where_it_is_installed():
    assert pspnet_zoo.__version__.count(".") == 2
