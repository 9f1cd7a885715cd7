"""PSPNet on any timm backbone, with weights.

A name is loaded when it is first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .data.open import open_dataset as open_dataset
    from .deployment.export import export as export
    from .evaluation.evaluate import evaluate as evaluate
    from .factory import create as create
    from .factory import load as load
    from .inference.prediction import Prediction as Prediction
    from .inference.predictor import Predictor as Predictor
    from .meta import Labels as Labels
    from .models.backbone import list_backbones as list_backbones
    from .models.pspnet import PSPNet as PSPNet
    from .storage.errors import WeightsError as WeightsError
    from .training.train import train as train
    from .upstream.convert import convert as convert
    from .zoo.registry import find_checkpoint as find_checkpoint
    from .zoo.registry import list_models as list_models

    from_pretrained = PSPNet.from_pretrained
    save_pretrained = PSPNet.save_pretrained

_HOMES = {
    "Labels": "meta",
    "PSPNet": "models.pspnet",
    "Prediction": "inference.prediction",
    "Predictor": "inference.predictor",
    "WeightsError": "storage.errors",
    "convert": "upstream.convert",
    "create": "factory",
    "evaluate": "evaluation.evaluate",
    "export": "deployment.export",
    "find_checkpoint": "zoo.registry",
    "from_pretrained": "models.pspnet:PSPNet",
    "list_backbones": "models.backbone",
    "list_models": "zoo.registry",
    "load": "factory",
    "open_dataset": "data.open",
    "save_pretrained": "models.pspnet:PSPNet",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pspnet_zoo' has no attribute '{name}'")
    module, _, owner = _HOMES[name].partition(":")
    home = import_module(f".{module}", __name__)
    value = getattr(getattr(home, owner) if owner else home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
