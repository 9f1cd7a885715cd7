"""Reading timm's names in its source, against timm itself."""

import subprocess
import sys

import timm
from timm.models._registry import _model_entrypoints

from pspnet_zoo.zoo.timm_names import is_timm_model, timm_models

SCRIPT = """
import json, sys
from pspnet_zoo.zoo.timm_names import is_timm_model, timm_models
names = sys.stdin.read().split()
found = {"listed": timm_models(), "refused": [name for name in names if not is_timm_model(name)], "bad": is_timm_model("resnet5s")}
assert not {"timm", "torch"} & set(sys.modules)
print(json.dumps(found))
"""


def test_the_source_has_every_name_that_timm_has():
    import json

    names = "\n".join(_model_entrypoints)
    run = subprocess.run([sys.executable, "-c", SCRIPT], input=names, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert sorted(found["listed"]) == sorted(timm.list_models())
    assert found["refused"] == [] and not found["bad"]


def test_with_timm_imported_its_own_list_counts():
    assert timm_models() == timm.list_models() and is_timm_model("tv_resnet50") and not is_timm_model("resnet5s")
