"""What every training run of a test needs."""

import pytest
from accelerate.state import AcceleratorState
from torch import nn

from pspnet_zoo import PSPNet


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps one precision for a whole process."""
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def steady(net) -> PSPNet:
    """A network whose outputs do not depend on chance."""
    return without_dropout(net)


def without_dropout(net: PSPNet) -> PSPNet:
    """The same network without dropout."""
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return net
