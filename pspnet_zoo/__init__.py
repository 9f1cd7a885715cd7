"""PSPNet on any timm backbone, with weights."""

from .data.labels import Labels as Labels
from .factory import create as create
from .models import PSPNet as PSPNet
from .models import list_backbones as list_backbones
from .predict import Prediction as Prediction
from .predict import Predictor as Predictor
from .registry import find as find
from .registry import list_models as list_models
from .weights.convert import convert as convert
from .weights.files import WeightsError as WeightsError
from .weights.files import save_pretrained as save_pretrained
from .weights.hub import from_pretrained as from_pretrained
