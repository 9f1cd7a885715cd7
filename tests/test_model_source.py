"""What a string that stands for a model means."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pspnet_zoo
from pspnet_zoo.model_source import Architecture, ExportedFile, Folder, Repository, parse, parse_name, parse_weights
from pspnet_zoo.zoo.registry import find_checkpoint

ROOT = Path(pspnet_zoo.__file__).parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_comes_first_whatever_its_name(here):
    for name in ("pspnet_lite0.camvid", "pspnet_r18", "org/repo", "run.v2/net", "street.onnx"):
        Path(name).mkdir(parents=True)
        assert parse(name) == Folder(Path(name)) == parse_weights(name)


def test_an_exported_file_is_known_by_its_ending_or_its_folder(here):
    for name, format in (("street.onnx", "onnx"), ("run.v2/STREET.XML", "openvino"), ("street.pt2", "program")):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
        assert parse(name) == ExportedFile(Path(name), format)
    Path("street").mkdir()
    Path("street/model.xml").touch()
    assert parse("street") == ExportedFile(Path("street/model.xml"), "openvino")


@pytest.mark.parametrize("name", ["street.onnx", "a/street.xml", "/nowhere/street.pt2", "pspnet_lite0.onnx"])
def test_a_missing_exported_file_is_said(here, name):
    with pytest.raises(FileNotFoundError, match=f"No file '{name}'"):
        parse(name)


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("org/repo", "org/repo", None),
        ("org/pspnet_lite0.camvid", "org/pspnet_lite0.camvid", None),
        ("org/repo@v1.0", "org/repo", "v1.0"),
        ("org/repo@refs/pr/1", "org/repo", "refs/pr/1"),
    ],
)
def test_one_slash_is_a_repository(here, text, name, revision):
    assert parse(text) == Repository(name, revision)


@pytest.mark.parametrize("text", ["/nowhere", "./org", "../org/repo", "a/b/c", "~/net", Path("org/repo"), Path("pspnet_r18")])
def test_other_paths_have_to_exist(here, text):
    with pytest.raises(FileNotFoundError, match=f"No file or folder '{text}'"):
        parse(text)


def test_another_file_is_refused_with_the_way_on(here):
    Path("street.pth").touch()
    with pytest.raises(ValueError, match=r"pspnet-zoo convert street.pth -o FOLDER"):
        parse("street.pth")


def test_a_name_is_a_checkpoint_or_an_architecture(here):
    entry = find_checkpoint("pspnet_lite0.camvid")
    assert parse("pspnet_lite0.camvid") == entry
    assert parse("semseg_pspnet50_ade20k") == find_checkpoint("pspnet_r50s.semseg_ade20k") == parse_name("semseg_pspnet50_ade20k")
    assert parse("pspnet_lite0") == Architecture(
        "pspnet_lite0", "tf_efficientnet_lite0", {"psp_out_channels": 192, "align_corners": None}
    )
    assert parse_weights("pspnet_lite0") == entry


def test_a_name_stays_one_beside_a_folder_that_has_it(here):
    Path("pspnet_r18").mkdir()
    assert parse_name("pspnet_r18") == Architecture("pspnet_r18", "resnet18", {})
    assert pspnet_zoo.create("pspnet_r18").config["encoder_name"] == "resnet18"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("pspnet_lite", "Unknown model 'pspnet_lite'. Did you mean 'pspnet_lite0'"),
        ("photo.jpg", "Unknown model 'photo'"),
        ("", "Unknown model ''"),
        ("pspnet_lite0.voc", "'pspnet_lite0' has no weights 'voc'"),
    ],
)
def test_a_wrong_name_gets_the_closest_ones(here, text, hint):
    with pytest.raises(ValueError, match=hint):
        parse(text)


def test_an_architecture_without_weights_is_refused_where_weights_are_needed():
    with pytest.raises(ValueError, match="has no published weights yet"):
        parse_weights("pspnet_resnet50_gn")


def test_a_wrong_name_is_answered_without_torch():
    script = """
import sys
from pspnet_zoo.model_source import parse
try:
    parse("pspnet_lite")
except ValueError:
    print(sorted({"torch", "timm", "numpy", "huggingface_hub"} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


# what stands for a model, in the arguments and variables of the package
MODEL_NAMES = {"model", "models", "init", "teacher", "teachers", "checkpoint", "network", "architecture"}

ALLOWED = {
    "model_source.py": "the parser",
    "zoo/registry.py": "the grammar architecture.tag",
}


def looks_inside(path: Path) -> list[str]:
    """Expressions that look for a dot, a slash or an ending in what may be the name of a model."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            subject, texts = node.comparators[0], [node.left]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr not in ("partition", "rpartition", "split", "rsplit", "endswith", "startswith", "find", "count"):
                continue
            subject, texts = node.func.value, node.args
        elif isinstance(node, ast.Attribute) and node.attr in ("suffix", "suffixes"):
            subject, texts = node.value, [ast.Constant(".")]
        else:
            continue
        names = {n.id for n in ast.walk(subject) if isinstance(n, ast.Name)}
        if names & MODEL_NAMES and any(isinstance(t, ast.Constant) and str(t.value)[:1] in (".", "/", "@") for t in texts):
            found.append(ast.unparse(node))
    return found


def test_one_file_decides_what_a_models_name_means():
    found = {str(p.relative_to(ROOT)).replace(os.sep, "/"): looks_inside(p) for p in ROOT.rglob("*.py")}
    assert {name: texts for name, texts in found.items() if texts and name not in ALLOWED} == {}
