"""tools/mutate.py: what it changes and what it leaves alone, and that tests see the change whichever way they import."""

import subprocess
import sys

import pytest

from tools import mutate


def changed(source: str) -> list[str]:
    return [mutant.change for mutant in mutate.mutants(source)]


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("0 < x <= n", ["`0 < x <= n` -> `0 <= x <= n`", "`0 < x <= n` -> `0 < x < n`", "`0` -> `1`"]),
        ("y = not x", ["`not x` -> `x`"]),
        ("if a == b: y = z", ["`a == b` -> `a != b`"]),
        ("if a: y = z", ["`if a` -> `if not a`"]),
        ("n += k * 2", ["`n += k * 2` -> `n -= k * 2`", "`k * 2` -> `k / 2`", "`2` -> `3`"]),
        ("y = f(x, dim=d, device=e)", ["`f(x, dim=d, device=e)` -> `f(x, device=e)`"]),
        ("model.train()", ["`model.train()` -> `pass`"]),
        ("y = True", ["`True` -> `False`"]),
    ],
)
def test_every_small_change_is_made_once(source, changes):
    assert changed(source) == changes


@pytest.mark.parametrize(
    "source",
    [
        "'words'",
        "raise ValueError(f'{x + 1}, not {x > 2}')",
        "warnings.warn('slow', stacklevel=2)",
        "if TYPE_CHECKING: import os",
        "x: Literal[8, 16]",
        "def f(x: Literal[8, 16]) -> Literal[1]: return x",
        "@dataclass(frozen=True)\nclass A: x: int",
        "y = list(zip(a, b, strict=True))",
    ],
)
def test_messages_types_and_guards_are_left_alone(source):
    assert changed(source) == []


TRY = """
import ast
import sys
from pathlib import Path
from tools import mutate

folder = Path(sys.argv[1])
mutate.ROOT = folder
sys.path.insert(0, str(folder))
test = folder / "test_small.py"


def outcome(check, body):
    test.write_text(f"from small.two import double\\n\\n\\ndef test_it():\\n    assert {check}\\n")
    return mutate.run_tests("small.one", ast.parse(f"def double(x):\\n    {body}\\n"), [str(test)], seconds=300)[0]


print(outcome("double(3) == 6", "return x * 2"))
print(outcome("double(3) == 6", "return x * 3"))
print(outcome("double(0) == 0", "return x * 3"))
mutate.TICK = 0.01
test.write_text("def test_it():\\n    import time; time.sleep(60)\\n")
print(*mutate.run_tests("small.one", ast.parse(""), [str(test)], seconds=1))
print("small" in sys.modules)
"""


def test_a_change_is_seen_noticed_or_survives(tmp_path):
    package = tmp_path / "small"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("def double(x):\n    return x * 2\n")
    (package / "two.py").write_text("from .one import double\n")
    # in a process of its own: the threads of this one do not live on in a fork, and what they hold stays locked
    command = [sys.executable, "-c", TRY, str(tmp_path)]
    printed = subprocess.run(command, cwd=mutate.ROOT, capture_output=True, text=True, check=True, timeout=600).stdout
    assert printed.split("\n")[:-1] == ["pass", "fail", "pass", "hang 1", "False"]


def test_every_module_in_the_table_has_its_tests():
    for module, tests in mutate.TESTS.items():
        assert mutate.path_of(f"pspnet_zoo.{module}").is_file(), module
        assert all((mutate.ROOT / "tests" / file).is_file() for file in tests.split()), module
