"""The house as CONTRIBUTING describes it: small rooms, small files, small functions, one name for one thing."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import pspnet_zoo

ROOT = Path(pspnet_zoo.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if "bundled" not in path.parts)
ENTRIES = ROOT / "zoo" / "checkpoints"  # registry entries, which may be as long as they are


def body_lines(function):
    """Lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("room", sorted({path.parent for path in MODULES}), ids=lambda room: str(room.relative_to(ROOT.parent)))
def test_a_room_has_at_most_ten_files(room):
    files = [path.name for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= 10 or room in (ROOT / "cli", ENTRIES), files


def test_files_have_at_most_400_lines():
    long = {str(p): n for p in MODULES if p.parent != ENTRIES and (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_functions_have_at_most_60_lines_without_signature_and_docstring():
    long = [
        f"{path.relative_to(ROOT)}:{node.name} {body_lines(node)}"
        for path in MODULES
        if path.parent != ENTRIES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > 60
    ]
    assert not long


def test_no_two_public_classes_or_functions_share_a_name():
    """Left out: commands, which are named as what they call; and layouts, which are modules of one interface."""
    homes = defaultdict(list)
    for path in MODULES:
        if path.parent.name not in ("cli", "layouts"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    homes[node.name].append(str(path.relative_to(ROOT)))
    doubled = {name: places for name, places in homes.items() if len(places) > 1}
    assert not doubled
