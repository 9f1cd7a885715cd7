"""The network."""

from .encoder import Encoder as Encoder
from .preprocess import Preprocess as Preprocess
from .pspnet import PSPNet as PSPNet
