"""Imports run one way, from what knows little to what knows much."""

import ast
import subprocess
import sys
from pathlib import Path

import pspnet_zoo

ROOT = Path(pspnet_zoo.__file__).parent

# each room may import those before it
ORDER = [
    "models",
    "data",
    "rows",
    "checkpoints",
    "registry",
    "table",
    "draw",
    "weights",
    "engine",
    "factory",
    "predict",
    "terminal",
    "cli_train",
    "cli_evaluate",
    "cli_data",
    "cli_publish",
    "cli",
]


# smp's users save a network by its method, which asks the files above it at the call
EXCEPTIONS = {("models/pspnet.py", "weights")}


def imports(path: Path) -> set[str]:
    """The rooms that a module imports, at its head or inside a function."""
    package = path.relative_to(ROOT).parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            names = [parts[0]] if parts[0] else [alias.name for alias in node.names]
            rooms.update(names)
    return {room for room in rooms if (path.relative_to(ROOT).as_posix(), room) not in EXCEPTIONS}


def test_no_module_imports_upward():
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room != "__init__":
            allowed = ORDER[: ORDER.index(room) + 1]
            assert imports(path) <= set(allowed), f"{path} imports {imports(path) - set(allowed)}"


def test_models_and_data_know_only_themselves():
    for room in ("models", "data"):
        for path in (ROOT / room).rglob("*.py"):
            assert imports(path) <= {room}, path


def test_the_package_imports_no_extra_and_little_beyond_torch_and_timm():
    script = """
import sys, time
import torch, timm
before, start = set(sys.modules), time.process_time()  # whatever else the machine does
import pspnet_zoo
seconds = time.process_time() - start
extras = {"accelerate", "onnx", "onnxruntime", "tensorboard", "torchmetrics", "segmentation_models_pytorch", "typer"}
assert not extras & (set(sys.modules) - before), extras & set(sys.modules)
print(seconds)
"""
    seconds = min(float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout) for _ in range(2))
    assert seconds < 0.15
