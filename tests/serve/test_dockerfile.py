"""The Dockerfile: linted, and what it starts exists. No image is built here."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pspnet_zoo.cli.app import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def steps():
    """The instructions and their arguments, in order."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{sys.prefix}/bin") or shutil.which("hadolint")
    if program is None:
        pytest.skip("needs hadolint, of the extra 'test'")
    found = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_it_runs_without_root_and_says_whether_it_is_well(steps):
    names = [name for name, _ in steps]
    assert names[0] == "FROM" and names.count("USER") == 1
    user = names.index("USER")
    assert steps[user][1] not in ("root", "0") and user > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    check = dict(steps)["HEALTHCHECK"]
    program = json.loads(check[check.index("[") :])
    assert program[0] == "python" and "/healthz" in program[2]
    compile(program[2], "HEALTHCHECK", "exec")


def test_what_it_copies_and_starts_exists(steps):
    for name, arguments in steps:
        if name == "COPY":
            assert all((ROOT / source).exists() for source in arguments.split()[:-1])
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    copied = {source for name, arguments in steps if name == "COPY" for source in arguments.split()[:-1]}
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    facts = dict(steps)
    words = json.loads(facts["ENTRYPOINT"]) + json.loads(facts["CMD"])
    command = typer.main.get_command(app).commands[words[1]]
    known = {option: p for p in command.params for option in p.opts}
    assert words[0] == "pspnet-zoo" and {word for word in words if word.startswith("-")} <= known.keys()
    assert known["--port"].default == int(facts["EXPOSE"]) and f":{facts['EXPOSE']}/" in facts["HEALTHCHECK"]
    assert "'./[serve]'" in facts["RUN"]
