"""Break a module in every small way, one at a time, and list what its tests do not notice.

python tools/mutate.py pspnet_zoo.evaluation.metrics tests/evaluation/test_metrics.py

Comparisons, arithmetic, conditions and numbers are changed, never messages. Each change runs in a fork, in which torch is imported
already, until the first test fails; a change that hangs for two minutes is noticed too. What survives changes no behaviour, or
lacks a test: a person decides.
"""

import argparse
import ast
import copy
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
SECONDS = 120


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the node's place."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in SWAPS:
        new.ops[0] = SWAPS[type(new.ops[0])]()  # pyright: ignore
        yield new
    elif isinstance(new, ast.BinOp | ast.BoolOp) and type(new.op) in SWAPS:
        new.op = SWAPS[type(new.op)]()  # pyright: ignore
        yield new
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not | ast.USub):
        yield new.operand
    elif isinstance(new, ast.If | ast.IfExp):
        new.test = ast.UnaryOp(ast.Not(), new.test)
        yield new
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool | int | float):
        new.value = not new.value if isinstance(new.value, bool) else new.value + 1
        yield new


class Replace(ast.NodeTransformer):
    """Puts a node in another's place."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().visit(node)


def mutants(source: str) -> Iterator[tuple[str, ast.Module]]:
    """Each change of a module, described, and the module with it."""
    tree = ast.parse(source)
    for index, node in enumerate(ast.walk(tree)):
        for new in changes(node):
            changed = copy.deepcopy(tree)
            old = list(ast.walk(changed))[index]
            module = ast.fix_missing_locations(Replace(old, ast.copy_location(new, old)).visit(changed))
            before, after = (ast.unparse(n).splitlines()[0] for n in (node, new))
            yield f"line {node.lineno}: {before}  ->  {after}", module  # pyright: ignore


def is_noticed(module: str, tree: ast.Module, tests: list[str]) -> bool:
    """Whether a test fails in a process that has this module instead of its own."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        code = 1
        try:
            space = sys.modules[module].__dict__
            exec(compile(tree, str(space["__file__"]), "exec"), space)
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] != 0


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("tests", nargs="+")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    path = Path(importlib.import_module(arguments.module).__file__ or "")
    tree = ast.parse(path.read_text())
    if not is_clean(arguments.module, tree, arguments.tests):
        sys.exit("The tests fail without any change")
    total = killed = 0
    for text, mutant in mutants(path.read_text()):
        total += 1
        noticed = is_noticed(arguments.module, mutant, arguments.tests)
        killed += noticed
        if not noticed:
            print(f"survives: {path.name} {text}", flush=True)
    print(f"{arguments.module}: {killed} of {total} noticed, {killed / max(total, 1):.0%}")


def is_clean(module: str, tree: ast.Module, tests: list[str]) -> bool:
    """Whether the tests pass with the module as it is."""
    return not is_noticed(module, tree, tests)


if __name__ == "__main__":
    main()
