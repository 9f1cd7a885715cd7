"""The network."""

from .encoder import Encoder as Encoder
from .encoder import list_backbones as list_backbones
from .pspnet import PSPNet as PSPNet
