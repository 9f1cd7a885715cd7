"""How operations pad; what they give is tested in test_dilated.py."""

from timm.layers.padding import get_same_padding

from pspnet_zoo.models.dense import _same_padding


def test_same_padding_is_that_of_timm():
    for size in range(1, 70):
        for kernel in (1, 2, 3, 5, 7):
            for stride in (1, 2, 3, 4):
                for dilation in (1, 2, 4):
                    wanted = get_same_padding(size, kernel, stride, dilation)
                    assert _same_padding(size, kernel, stride, dilation) == wanted, (size, kernel, stride, dilation)
