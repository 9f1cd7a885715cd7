"""The pages of the site that are made: what they say can be typed, and nothing is left out."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import pspnet_zoo
from pspnet_zoo import Predictor
from pspnet_zoo.cli.app import app
from pspnet_zoo.zoo.registry import CHECKPOINTS, DEFAULT_MODEL

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools import site_pages  # noqa: E402

PAGES = site_pages.pages()


def blocks(name: str, language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", PAGES[f"models/{name}.md"], re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("row", CHECKPOINTS, ids=lambda row: row.name)
def test_a_models_snippets_name_it_and_options_that_exist(row, net, tmp_path, monkeypatch):
    """With a small network and image in place of the weights, which would have to be fetched."""
    monkeypatch.chdir(tmp_path)
    for name in ("street.jpg", "cells.png"):
        Image.new("RGB", (64, 48)).save(name)
    asked = []

    def predictor(name):
        asked.append(name)
        return Predictor(net)

    monkeypatch.setattr(pspnet_zoo, "Predictor", predictor)
    program = typer.main.get_command(app)
    lines = [shlex.split(line, comments=True) for line in blocks(row.name, "sh").splitlines()]
    for _, command, *arguments in lines:
        known = {option for p in program.commands[command].params for option in (*p.opts, *p.secondary_opts)}
        assert {a for a in arguments if a.startswith("-")} <= known
        assert row.name in {a.rstrip("/") for a in arguments}
    exec(blocks(row.name, "python"), {})
    if row.upstream is not None and row.upstream.same_weights_as is not None:
        assert not lines and not asked and f"models/{row.upstream.same_weights_as}.md" in PAGES
    else:
        assert lines and {name.rstrip("/") for name in asked} == {row.name} and Path("overlay.png").exists()


def test_the_bundled_models_snippets_run_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "docs" / "assets" / "lund_20.jpg", "street.jpg")
    for line in blocks(DEFAULT_MODEL, "sh").splitlines():
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    exec(blocks(DEFAULT_MODEL, "python"), {})
    assert Path("predictions/street_mask.png").exists() and Path("overlay.png").exists()


def test_every_public_name_and_every_room_is_in_the_reference():
    written = re.findall(r'^<span id="pspnet_zoo\.(\w+)"></span>$', PAGES["reference/api.md"], re.MULTILINE)
    assert set(written) == set(pspnet_zoo._HOMES)
    rooms = {path.name for path in (ROOT / "pspnet_zoo").iterdir() if (path / "__init__.py").exists()}
    assert set(site_pages.ROOMS) == rooms - {"cli", "demo"}
    for room in site_pages.ROOMS:
        assert f"::: pspnet_zoo.{room}." in PAGES[f"reference/api-{room}.md"]
