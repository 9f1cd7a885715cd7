"""A network whose masks hold every class, exported to each runtime."""

import pytest
import torch

from pspnet_zoo import PSPNet, export
from pspnet_zoo.data.labels import Labels


def varied(encoder: str = "test_resnet", seed: int = 0, **options) -> PSPNet:
    """A small network in evaluation mode whose norms and classes do something."""
    torch.manual_seed(seed)
    network = PSPNet(encoder, None, classes=3, psp_out_channels=16, **options)
    network.labels = Labels(("a", "b", "c"))
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.randn(2, 3, 64, 96))
        scores, head = network.eval()(torch.randn(4, 3, 64, 96)), network.segmentation_head[0]
        mean, deviation = scores.mean((0, 2, 3)), scores.std((0, 2, 3))
        head.weight.div_(deviation[:, None, None, None])
        head.bias.copy_((head.bias - mean) / deviation)
    return network


@pytest.fixture
def network() -> PSPNet:
    return varied()


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The same network by runtime: "torch", and the paths of its ONNX and OpenVINO files."""
    folder = tmp_path_factory.mktemp("exported")
    made = varied()
    paths = {name: export(made, folder / file) for name, file in (("onnx", "net.onnx"), ("openvino", "net.xml"))}
    return {"torch": made, **paths}
