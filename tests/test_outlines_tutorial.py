"""The tutorial of thirty images: its commands and its code work in this order, in both languages and as a notebook."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pspnet_zoo.cli.app import app
from tests.notebook import run_notebook
from tools.notebooks import notebook, parts

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / "tutorial" / name for name in ("outlines.ko.md", "outlines.md")]
ENGLISH = PAGES[1]


def commands(text: str) -> list[str]:
    """The commands of a block of the page, or of a cell, one in each line."""
    return re.sub(r"\\\n *|^!", "", text, flags=re.MULTILINE).splitlines()


def meaning(blocks: list[tuple[str, str]]) -> list:
    """What is run, without comments."""
    return [commands(block) if language == "sh" else ast.dump(ast.parse(block)) for language, block in blocks]


def run_of(page: Path) -> list[tuple[str, str]]:
    return [(language, block) for language, block in parts(page) if language != "text"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, which is as that of a clone."""
    shutil.copytree(ROOT / "docs" / "assets" / "nuclei", tmp_path / "docs" / "assets" / "nuclei")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_language_and_every_notebook_has_the_same_code_and_commands(page):
    assert meaning(run_of(page)) == meaning(run_of(ENGLISH))
    cells = [
        "".join(cell["source"])
        for cell in json.loads(page.with_suffix(".ipynb").read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    assert "%pip" in cells[0]
    assert meaning([("sh" if cell.startswith("!") else "python", cell) for cell in cells[1:]]) == meaning(run_of(ENGLISH))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_notebooks_are_made_from_the_pages(page):
    assert page.with_suffix(".ipynb").read_text() == notebook(page), "run: python tools/notebooks.py"


def test_a_command_over_two_lines_is_one_cell_and_other_programs_stay_text(tmp_path):
    page = tmp_path / "outlines.md"
    page.write_text("# T\n\n```sh\npip install it\n```\n\n```sh\npspnet-zoo train \\\n    -o a\npspnet-zoo info b\n```\n")
    cells = json.loads(notebook(page))["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "code"]
    assert "".join(cells[2]["source"]) == "!pspnet-zoo train \\\n    -o a\n!pspnet-zoo info b"


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:This process.*is multi-threaded:DeprecationWarning",
    "ignore:unclosed file:ResourceWarning",  # of images that a notebook would show
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_the_page_runs_from_start_to_end_with_a_small_network_and_few_steps(folder):
    pytest.importorskip("onnxruntime")
    scope: dict = {"__name__": "__main__"}
    for language, block in run_of(ENGLISH):
        if language == "python":
            exec(compile(block, ENGLISH.name, "exec"), scope)
            continue
        for command in commands(block):
            assert command.startswith("pspnet-zoo ")
            if " train " in command:
                command = command.replace("--init pspnet_lite0.camvid", "--model pspnet_test_resnet")
                command += " --iterations 2 --crop 48 48 --cpu --log none"
            result = CliRunner().invoke(app, shlex.split(command)[1:])
            assert result.exit_code == 0, (command, result.output)
            if "--format labelme --simplify" in command:  # after two steps the network may have found nothing
                draft = json.loads(Path("thirty/drafts/14cc1424c598.json").read_text())
                rings = ([[9, 9], [60, 9], [60, 60]], [[99, 9], [160, 9], [160, 60], [99, 60]])
                draft["shapes"] = [{"label": "nucleus", "points": ring, "shape_type": "polygon"} for ring in rings]
                Path("thirty/drafts/14cc1424c598.json").write_text(json.dumps(draft))
    assert len(list(Path("thirty/data/train/masks").iterdir())) == 24
    assert (scope["masks"][0] == scope["masks"][1]).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_notebook_runs_and_the_network_learns(page, folder, monkeypatch):
    run_notebook(page, folder, monkeypatch)
    report = json.loads((folder / "thirty" / "report.json").read_text())
    assert report["iou"]["nucleus"] > 0.4  # 0.546 on one processor
    assert (folder / "thirty" / "nuclei.onnx").is_file()
