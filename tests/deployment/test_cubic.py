import pytest
import torch
from torch.nn import functional as F

from pspnet_zoo.deployment.cubic import CubicByMatrices, resize_cubic


@pytest.mark.parametrize("size", [(14, 14), (28, 20), (7, 5), (13, 31), (1, 1), (3, 40)])
@pytest.mark.parametrize("old", [(14, 14), (7, 9), (1, 2)])
def test_matrices_resize_as_torch_does(old, size):
    x = torch.randn(2, 3, *old)
    torch.testing.assert_close(resize_cubic(x, size), F.interpolate(x, size, mode="bicubic", antialias=True), atol=1e-5, rtol=0)


def test_other_calls_are_as_before():
    x = torch.randn(1, 2, 5, 6)
    with CubicByMatrices():
        plain = F.interpolate(x, size=(9, 9), mode="bicubic")
        linear = F.interpolate(x, scale_factor=2.0, mode="bilinear", antialias=True)
    torch.testing.assert_close(plain, F.interpolate(x, size=(9, 9), mode="bicubic"), atol=0, rtol=0)
    torch.testing.assert_close(linear, F.interpolate(x, scale_factor=2.0, mode="bilinear", antialias=True), atol=0, rtol=0)
