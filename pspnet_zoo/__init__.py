"""PSPNet on any timm backbone, with weights."""

from .data.labels import Labels as Labels
from .factory import create as create
from .inference.predictor import Prediction as Prediction
from .inference.predictor import Predictor as Predictor
from .models import PSPNet as PSPNet
from .models import list_backbones as list_backbones
from .storage.files import WeightsError as WeightsError
from .storage.files import save_pretrained as save_pretrained
from .storage.hub import from_pretrained as from_pretrained
from .upstream.convert import convert as convert
from .zoo.registry import find as find
from .zoo.registry import list_models as list_models
