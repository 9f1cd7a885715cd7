"""What the repository's own files say about each other."""

import re
from pathlib import Path

import pspnet_zoo
from tests.test_imports import FLOORS

ROOT = Path(__file__).parent.parent


def test_hooks_have_the_versions_of_the_extra_dev():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    dependencies = set(re.findall(r'additional_dependencies: \["(.+)"\]', hooks))
    assert len(dependencies) == hooks.count("language: python") - 3  # ruff has two hooks, check-jsonschema three
    assert dependencies <= set(re.findall(r'"(.+?)"', (ROOT / "pyproject.toml").read_text()))


def test_the_oldest_python_is_tested():
    oldest = re.search(r'requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert f'python: ["{oldest[1]}", ' in workflow
    assert set(re.findall(r'python-version: "(.+)"', workflow)) == {oldest[1]}


def test_the_version_is_written_once():
    number = re.escape(pspnet_zoo.__version__)
    files = [ROOT / "pyproject.toml", ROOT / "CITATION.cff", *(ROOT / "pspnet_zoo").rglob("*.py")]
    assert [f.name for f in files if re.search(rf'version.*"{number}"', f.read_text())] == ["__init__.py"]


def test_the_rooms_in_contributing_are_in_their_order():
    house = (ROOT / "CONTRIBUTING.md").read_text().partition("## The house")[2].partition("Beside the package")[0]
    named = [name.removesuffix(".py") for name in re.findall(r"`(\w+\.py|\w+)/?`:", house)]
    assert len(named) > 8 and named == [floor for floor in FLOORS if floor in named]
