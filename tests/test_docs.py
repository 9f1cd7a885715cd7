"""What the documents say can be typed."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from pspnet_zoo.cli import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python")], ids=lambda d: d.name)
def test_python_snippets_run(document, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "docs" / "assets", tmp_path / "docs" / "assets")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks(document, "python")), document.name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_commands_and_their_options_exist(document):
    program = typer.main.get_command(app)
    for line in "\n".join(blocks(document, "sh")).replace("\\\n", " ").splitlines():
        for words in re.findall(r"pspnet-zoo ([^&|#]+)", line):
            command, arguments = program, shlex.split(words)
            while hasattr(command, "commands"):  # a group, such as `pspnet-zoo data`
                command = command.commands[arguments.pop(0)]
            known = {option for parameter in command.params for option in parameter.opts}
            assert {a for a in arguments if re.match("--?[a-z]", a)} <= known, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_inside_the_repository_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
