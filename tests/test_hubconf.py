"""torch.hub's own code, with GitHub on this machine: list, help, load, and the copies that get in each other's way."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pspnet_zoo
from pspnet_zoo import PSPNet
from pspnet_zoo.zoo.registry import BUNDLED, CHECKPOINTS, find_checkpoint

ROOT = Path(pspnet_zoo.__file__).parent.parent
WEIGHTS = BUNDLED / "pspnet_lite0.camvid" / "model.safetensors"

# runs in a fresh process, whose current folder does not hold the package, so that the copy of the zip is the one that is imported
PROLOGUE = """
import json, os, socket, sys, warnings
warnings.simplefilter("error")
sys.path.append(os.environ["REPO"])  # for tests.github; behind what torch.hub puts first
import torch
from pathlib import Path
from tests.github import github, zipball
REPO, REF = "someone/pspnet_zoo", "someone/pspnet_zoo:v1"
root = Path(os.environ["REPO"])
paths = [p.relative_to(root).as_posix() for p in (root / "pspnet_zoo").rglob("*") if p.is_file() and p.suffix != ".pyc"]
connect = socket.socket.connect
def guarded(self, address):
    assert address[0] == "127.0.0.1", address
    return connect(self, address)
socket.socket.connect = guarded
"""


def run(script: str, tmp_path: Path) -> list:
    """The JSON values that a script prints, one a line, in a process where only this machine can be reached."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GITHUB_TOKEN")}
    environment |= {"REPO": str(ROOT), "TORCH_HOME": str(tmp_path / "torch"), "HF_HOME": str(tmp_path / "hf")}
    environment |= {"PSPNET_ZOO_CACHE": str(tmp_path / "zoo"), "NO_PROXY": "*"}
    command = [sys.executable, "-c", PROLOGUE + script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", "{"))]


@pytest.fixture(scope="module")
def hubconf():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(module) -> list[str]:
    return [name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")]


def test_every_architecture_with_weights_has_an_entry(hubconf):
    assert {row.architecture for row in CHECKPOINTS} | {"pspnet", "pspnet_lite0"} == set(entries(hubconf))
    assert all(getattr(hubconf, name).__name__ == name for name in entries(hubconf))


def test_help_names_tags_that_exist_and_the_default_first(hubconf):
    for name in set(entries(hubconf)) - {"pspnet", "pspnet_lite0"}:
        help = getattr(hubconf, name).__doc__
        tags = help.partition("such as ")[2].partition(";")[0].replace('"', "").split(" or ")
        assert [find_checkpoint(name, tag).tag for tag in tags] == tags and find_checkpoint(name).tag == tags[0]


def test_dependencies_are_what_creating_and_predicting_imports(hubconf):
    script = """
import sys, json
import pspnet_zoo
pspnet_zoo.Predictor, pspnet_zoo.create, pspnet_zoo.convert
from pspnet_zoo.storage import hub
ours = [module.__file__ for name, module in sys.modules.items() if name.startswith("pspnet_zoo.")]
print(json.dumps([ours, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    ours, loaded = json.loads(done.stdout)
    named = set().union(*(top_level_imports(Path(file)) for file in ours))
    assert named <= set(hubconf.dependencies) <= set(loaded)  # some are named in functions, or by timm


def top_level_imports(file: Path) -> set[str]:
    """Packages of others that a module needs to be imported."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def test_list_help_and_load_from_a_folder():
    net = torch.hub.load(str(ROOT), "pspnet_r18", source="local", classes=3)
    assert isinstance(net, PSPNet) and net.config["classes"] == 3 and net.config["encoder_name"] == "resnet18"
    net = torch.hub.load(str(ROOT), "pspnet", "test_efficientnet", source="local", psp_out_channels=8)
    assert net(torch.randn(2, 3, 33, 65)).shape == (2, 19, 33, 65)
    with pytest.raises(TypeError, match="clases"):
        torch.hub.load(str(ROOT), "pspnet", "test_efficientnet", source="local", clases=8)


def test_list_help_and_load_from_github(tmp_path):
    script = """
with github("someone", "pspnet_zoo") as site:
    site.zipballs["main"] = site.zipballs["v1"] = zipball("pspnet_zoo", "main", root, ["hubconf.py", *paths])
    print(json.dumps(torch.hub.list(REPO, trust_repo=True)))
    first = torch.hub.help(REPO, "pspnet_r50c", trust_repo=True).splitlines()[0]
    net = torch.hub.load(REPO, "pspnet", "test_efficientnet", psp_out_channels=8, classes=4, trust_repo=True)
    print(json.dumps([first, list(net(torch.randn(2, 3, 33, 65)).shape)]))
    import pspnet_zoo
    print(json.dumps([pspnet_zoo.__file__, len([url for url in site.asked if "codeload" in url])]))
    try:
        torch.hub.load(REF, "pspnet", "test_efficientnet", trust_repo=True)
    except RuntimeError as error:
        print(json.dumps([str(error)]))
"""
    names, (first, shape), (file, downloads), (stale,) = run(script, tmp_path)
    assert "pspnet" in names and "pspnet_lite0" in names and "pspnet_r101c" in names
    assert all(name.startswith("pspnet") for name in names)
    assert first == "PSPNet on ResNet-50-C: deep stem of 32 channels." and shape == [2, 4, 33, 65]
    assert Path(file).is_relative_to(tmp_path / "torch") and downloads == 1
    assert "Another copy of pspnet_zoo is already imported" in stale and "start a new process" in stale


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the bundled weights are not in this tree")
def test_the_bundled_weights_segment_a_photo_with_no_network_beyond_github(tmp_path):
    script = """
from PIL import Image
with github("someone", "pspnet_zoo") as site:
    site.zipballs["main"] = zipball("pspnet_zoo", "main", root, ["hubconf.py", *paths])
    net = torch.hub.load(REPO, "pspnet_lite0", pretrained=True, trust_repo=True)
from pspnet_zoo import Predictor
prediction = Predictor(net)(root / "docs" / "assets" / "lund_20.jpg")
print(json.dumps([len(net.labels), prediction.class_fractions["road"], prediction.class_fractions["sky"]]))
"""
    ((classes, road, sky),) = run(script, tmp_path)
    assert classes == 11 and road > 0.05 and sky > 0.02


def test_another_copy_in_the_process_is_said(hubconf, monkeypatch, tmp_path):
    monkeypatch.setattr(pspnet_zoo, "__file__", str(tmp_path / "pspnet_zoo" / "__init__.py"))
    with pytest.raises(RuntimeError, match="Another copy of pspnet_zoo is already imported"):
        hubconf.pspnet("test_efficientnet")


def test_help_is_useful_on_its_own(hubconf):
    text = hubconf.pspnet_r101c.__doc__
    for word in ("pretrained", "classes", "in_channels", "Returns", "torch.hub.load", ".preprocess", "mmseg_ade20k"):
        assert word in text
