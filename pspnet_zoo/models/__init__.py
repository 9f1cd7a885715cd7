"""The network."""

from .encoder import Encoder as Encoder
from .encoder import list_backbones as list_backbones
from .preprocess import Preprocess as Preprocess
from .pspnet import PSPNet as PSPNet
