"""The names of timm's models, without importing timm: that takes seconds, and a wrong name should be answered at once."""

import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def timm_models() -> list[str]:
    """The names of `timm.list_models()`, in no order; with those that others registered, if timm is imported."""
    if "timm" in sys.modules:
        import timm

        return timm.list_models()
    return list(_registered())


def is_timm_model(name: str) -> bool:
    """Whether timm has a model of this name, as `timm.is_model`: also for the names that timm has given up and still takes."""
    if "timm" in sys.modules:
        import timm

        return timm.is_model(name)
    return name in _registered() or name in _given_up()


@cache
def _registered() -> dict[str, None]:
    """The names of the models, in their order in the source."""
    return dict.fromkeys(re.findall(r"^@register_model\ndef (\w+)", _source(), re.MULTILINE))


@cache
def _given_up() -> frozenset[str]:
    tables = re.findall(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", _source(), re.MULTILINE | re.DOTALL)
    return frozenset(name for table in tables for name in re.findall(r"'([^']*)'\s*:", table))


@cache
def _source() -> str:
    """timm's modules of models, one after the other: a model is a decorated function of its name."""
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")
    files = sorted((Path(spec.origin).parent / "models").glob("*.py"))
    return "\n".join(file.read_text("utf-8") for file in files)
