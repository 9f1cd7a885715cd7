"""PSPNet on any timm backbone, with weights."""

from .data.labels import Labels as Labels
from .factory import create as create
from .factory import load as load
from .inference.predictor import Prediction as Prediction
from .inference.predictor import Predictor as Predictor
from .models import PSPNet as PSPNet
from .models import list_backbones as list_backbones
from .storage.errors import WeightsError as WeightsError
from .upstream.convert import convert as convert
from .zoo.registry import find as find
from .zoo.registry import list_models as list_models

__version__ = "0.1.0"

from_pretrained = PSPNet.from_pretrained
save_pretrained = PSPNet.save_pretrained
