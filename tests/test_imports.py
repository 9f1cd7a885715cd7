"""Imports run one way, from what knows little to what knows much."""

import ast
import subprocess
import sys
from pathlib import Path

import pspnet_zoo

ROOT = Path(pspnet_zoo.__file__).parent

# from the ground up: each room may import itself and those before it
FLOORS = [
    "meta",
    "extras",
    "interrupts",
    "storage",
    "data",
    "zoo",
    "model_source",
    "models",
    "upstream",
    "factory",
    "runtimes",
    "streams",
    "inference",
    "results",
    "bulk",
    "evaluation",
    "deployment",
    "training",
    "serve",
    "demo",
    "cli",
]


def names_of(path: Path) -> tuple[str, ...]:
    """Where a module is, as in its dotted name below the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {names_of(path): path for path in ROOT.rglob("*.py")}


def imports(path: Path) -> set[tuple[str, ...]]:
    """The modules of this package that a module imports, at its head or inside a function."""
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else ()))
            modules = {(*base, alias.name) for alias in node.names} & MODULES.keys()
            found |= modules or {base}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not any(name.split(".")[0] == "pspnet_zoo" for name in names), f"{path} imports by a full name"
    return found - {names_of(path), ()}  # the package itself, for its version; its names are loaded on use


def test_every_room_has_its_floor():
    assert {name[0] for name in MODULES if name} == set(FLOORS)


def test_no_module_imports_upward():
    for name, path in MODULES.items():
        if name:
            allowed = FLOORS[: FLOORS.index(name[0]) + 1]
            assert {other[0] for other in imports(path)} <= set(allowed), f"{path} imports {imports(path)}"


def test_no_circle_of_modules():
    left = {name: imports(path) for name, path in MODULES.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {left}"


def test_the_root_has_few_files():
    assert len([p for p in ROOT.iterdir() if p.is_file()]) <= 7


def test_the_package_imports_no_extra_and_little_beyond_torch_and_timm():
    script = """
import sys, time
import torch, timm
before, start = set(sys.modules), time.process_time()  # whatever else the machine does
import pspnet_zoo
seconds = time.process_time() - start
extras = {"accelerate", "av", "onnx", "onnxruntime", "pyarrow", "ray", "segmentation_models_pytorch", "tensorboard", "typer"}
assert not extras & (set(sys.modules) - before), extras & set(sys.modules)
print(seconds)
"""
    seconds = min(float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout) for _ in range(2))
    assert seconds < 0.15


def test_what_tools_and_benchmarks_import_exists():
    """They are run by hand, and rarely: a name that has moved would be noticed by whoever needs it."""
    checked = 0
    for path in [path for folder in ("tools", "benchmarks") for path in (ROOT.parent / folder).glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pspnet_zoo":
                place = tuple(node.module.split(".")[1:])
                for alias in node.names:
                    assert (*place, alias.name) in MODULES or alias.name in names_in(MODULES[place]), f"{path} imports {alias.name}"
                    checked += 1
    assert checked > 20


def names_in(module: Path) -> set[str]:
    """What a module defines or imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found
