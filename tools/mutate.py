"""Break a module in every small way, one at a time, and list what its tests do not notice.

python tools/mutate.py evaluation.metrics
python tools/mutate.py --sample 60 --seed 0  # every module in TESTS, each with at most 60 changes drawn at random

Comparisons, conditions, arithmetic, numbers, booleans and signs are changed, keywords are left out of calls, and calls whose value
nobody takes are dropped; `left_alone` says what is not. Each change runs in a fork that imports the package anew, so that every
module sees it, until the first test fails. Processes that tests start by a command see nothing of it.
"""

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# module: the fewest quick test files that are about it, quickest first
TESTS = {
    "evaluation.metrics": "evaluation/test_metrics.py",
    "storage.files": "storage/test_files.py storage/test_hostile.py",
    "models.pyramid": "models/test_pyramid.py",
    "models.heads": "models/test_heads.py",
    "models.dilated_layers": "models/test_dilated_layers.py models/test_dilated.py",
    "training.loss": "training/test_loss.py training/test_distill.py",
    "training.recipes": "training/test_step.py training/test_recipes.py",
    "training.transforms": "training/test_transforms.py training/test_distill.py",
    "training.stream": "training/test_stream.py training/test_step.py",
    "training.run": "training/test_step.py training/test_train.py",
    "training.train": "training/test_step.py training/test_train.py training/test_distill.py",
    "training.distill": "training/test_distill.py",
    "runtimes.cpu.depthwise": "runtimes/cpu/test_depthwise.py",
    "training.log": "training/test_train.py",
    "inference.protocols": "inference/test_protocols.py",
    "inference.windows": "inference/test_protocols.py",
    "inference.scores": "inference/test_scores.py",
    "inference.predictor": "inference/test_predictor.py streams/test_pipeline.py streams/test_video.py",
    "inference.prediction": "inference/test_predictor.py inference/test_draw.py",
    "inference.draw": "inference/test_draw.py inference/test_predictor.py",
    "runtimes.cpu.winograd": "runtimes/cpu/test_winograd.py",
    "runtimes.cpu.folding": "runtimes/cpu/test_folding.py",
    "streams.pipeline": "streams/test_pipeline.py",
    "bulk.driver": "bulk/test_damaged_shards.py bulk/test_driver.py",
    "bulk.sources": "bulk/test_sources.py",
    "results.report": "results/test_report.py",
    "bulk.shards": "bulk/test_shards.py",
    "runtimes.exported": "runtimes/test_exported.py",
    "streams.containers": "streams/test_video.py",
    "streams.video": "streams/test_video_edges.py streams/test_video.py",
}

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
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
SPEECH = {"warn", "info", "warning", "debug"}
"""Calls that only say something."""
NO_VALUE = {"device", "inplace", "memory_format", "non_blocking", "stacklevel", "strict", "usedforsecurity"}
"""Keywords that change where and how a result is computed, not the result; `strict` is zip's."""
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
OPTIONS += ["-k", "not two_processes and not every_process"]
"""Tests that start other processes are left out: those see no change."""
TICK = 0.1
"""Seconds between two looks at a child: they are counted, not the clock, which runs while both are stopped."""


class Mutant(NamedTuple):
    """A module with one change."""

    line: int
    change: str
    tree: ast.Module


def left_alone(node: ast.AST) -> bool:
    """Whether nothing below this is changed: messages, types, decorators, and guards against the programmer's own mistakes."""
    match node:
        case ast.Raise() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in SPEECH:
            return True
        case ast.keyword(arg=name) if name in NO_VALUE:
            return True
    return False


def places(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may be changed, in the order of the source."""
    if left_alone(node):
        return
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from places(child)


def swapped(operation: ast.AST) -> Any:
    return SWAPS.get(type(operation), type(operation))()


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that may replace a node."""
    match node:
        case ast.Compare():
            for i, operation in enumerate(node.ops):
                new = copy.deepcopy(node)
                new.ops[i] = swapped(operation)
                yield new
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign():
            new = copy.deepcopy(node)
            new.op = swapped(node.op)
            yield new
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield copy.deepcopy(node.operand)
        case ast.If(test=test) | ast.IfExp(test=test) if not is_inverted_by_a_swap(test):
            new = copy.deepcopy(node)
            new.test = ast.UnaryOp(ast.Not(), new.test)
            yield new
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
        case ast.Call():
            for i, keyword in enumerate(node.keywords):
                if keyword.arg is not None and keyword.arg not in NO_VALUE:
                    new = copy.deepcopy(node)
                    del new.keywords[i]
                    yield new
        case ast.Expr(value=ast.Call()):
            if not left_alone(node.value):
                yield ast.Pass()


def is_inverted_by_a_swap(test: ast.AST) -> bool:
    """Whether a change of the condition itself is its opposite already."""
    opposites = ast.Eq | ast.NotEq | ast.In | ast.NotIn | ast.Is | ast.IsNot
    return (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], opposites)) or (
        isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    )


class Replace(ast.NodeTransformer):
    """Puts a node in another's place."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)


def mutants(source: str) -> Iterator[Mutant]:
    """Each change of a module that makes another program."""
    tree = ast.parse(source)
    plain = ast.dump(tree)
    for index, node in enumerate(places(tree)):
        for new in changes(node):
            changed = copy.deepcopy(tree)
            old: Any = list(places(changed))[index]
            module = Replace(old, ast.copy_location(new, old)).visit(changed)
            if ast.dump(module) != plain:
                before, after = (ast.unparse(n).splitlines()[0].removesuffix(":") for n in (node, new))
                yield Mutant(old.lineno, f"`{before}` -> `{after}`", ast.fix_missing_locations(module))


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a tree instead of its file."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=str(self.path))
        spec.has_location = True
        return spec

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def run_tests(name: str, tree: ast.Module, tests: list[str], *, seconds: float, report: Path | None = None) -> tuple[str, float]:
    """The result of a module's tests: "pass", "fail" or "hang" (no end after `seconds`); and the seconds until then."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1), os.dup2(silence, 2)
            sys.meta_path.insert(0, Changed(name, path_of(name), tree))
            code = int(pytest.main([*OPTIONS, *tests]))
            if report:
                report.write_text(json.dumps(sorted(sys.modules)))
        finally:
            os._exit(code)
    done = status = ticks = 0
    while not done and ticks * TICK < seconds:
        time.sleep(TICK)
        ticks += 1
        done, status = os.waitpid(child, os.WNOHANG)
    end_group(child)  # also what the tests left running
    if not done:
        os.waitpid(child, 0)
        return "hang", seconds
    return "pass" if status == 0 else "fail", ticks * TICK


def end_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def path_of(name: str) -> Path:
    return ROOT / f"{name.replace('.', '/')}.py"


def import_dependencies(report: Path) -> None:
    """Import what the tests imported, but for this project's modules, so that the forks need not."""
    for name in json.loads(report.read_text()):
        if name.partition(".")[0] not in ("pspnet_zoo", "tests", "benchmarks", "tools", "hubconf", "conftest", "__main__"):
            with suppress(ImportError):  # a few are known by names of their own
                importlib.import_module(name)


def measure(module: str, tests: list[str], sample: int | None, seed: int, lines: Collection[int]) -> str:
    """Print what survives, and return a row of the table."""
    name = f"pspnet_zoo.{module}"
    source = path_of(name).read_text()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "modules.json")
        first, _ = run_tests(name, ast.parse(source), tests, seconds=900, report=report)
        if first == "pass":
            import_dependencies(report)
    outcome, seconds = run_tests(name, ast.parse(source), tests, seconds=900)
    if (first, outcome) != ("pass", "pass"):
        sys.exit(f"The tests of {module} fail without any change, or take more than 15 minutes")
    everything = list(mutants(source))
    chosen = everything
    if sample is not None and len(everything) > sample:
        chosen = sorted(random.Random(seed).sample(everything, sample), key=lambda m: m.line)
    chosen = [mutant for mutant in chosen if not lines or mutant.line in lines]
    noticed = 0
    for mutant in chosen:
        outcome, _ = run_tests(name, mutant.tree, tests, seconds=20 + 4 * seconds)
        noticed += outcome != "pass"
        if outcome != "fail":
            print(f"{'survives' if outcome == 'pass' else 'hangs'}: {module}:{mutant.line} {mutant.change}", flush=True)
    row = f"| `{module}` | {len(everything)} | {len(chosen)} | {noticed} | {noticed / max(len(chosen), 1):.0%} |"
    print(row, flush=True)
    return row


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="as training.loss; all in TESTS if there is none")
    parser.add_argument("--tests", nargs="+", help="test files, in place of those in TESTS")
    parser.add_argument("--sample", type=int, help="at most this many changes of a module, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", nargs="+", type=int, default=[], help="of those, only the changes in these lines")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    rows = []
    for module in arguments.modules or TESTS:
        tests = arguments.tests or [f"tests/{file}" for file in TESTS[module].split()]
        rows.append(measure(module, tests, arguments.sample, arguments.seed, arguments.lines))
    print("| module | changes | tried | noticed | |\n|---|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()
