"""What is said where a dependency that only some need is missing."""

import ast
import re
from pathlib import Path

import pspnet_zoo
from pspnet_zoo.extras import MissingExtraError, missing_extra

ROOT = Path(pspnet_zoo.__file__).parent


def test_it_names_the_work_the_module_and_the_line_that_installs_it():
    text = (
        "Bulk work needs ray.data, which is not installed. Install the extra, in a clone of the project: pip install -e '.[bulk]'"
    )
    for missing in ("ray.data", ModuleNotFoundError("No module named 'ray'", name="ray.data"), ImportError("ray.data")):
        error = missing_extra("Bulk work", "bulk", missing)
        assert isinstance(error, MissingExtraError) and isinstance(error, ImportError) and str(error) == text


def test_every_extra_that_is_named_exists():
    pyproject = (ROOT.parent / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    extras = set(re.findall(r"^(\w+) = \[", pyproject, re.MULTILINE))
    modules = [path.read_text() for path in ROOT.rglob("*.py")]
    calls = [
        node
        for module in modules
        for node in ast.walk(ast.parse(module))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "missing_extra"
    ]
    named = {c.value for call in calls for c in ast.walk(call.args[1]) if isinstance(c, ast.Constant)} & extras
    names = {"labels", "raster", "train", "video", "bulk", "export", "openvino", "demo", "peft", "serve", "executorch"}
    assert named == names and len(calls) >= 8


def test_nothing_else_says_how_to_install_an_extra():
    said = [path.name for path in ROOT.rglob("*.py") if "pip install -e '.[" in path.read_text()]
    assert said == ["extras.py"]
