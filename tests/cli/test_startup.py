"""Commands start at once: what needs no network is not made to wait for torch."""

import os
import subprocess
import sys

import pytest

from pspnet_zoo.cli.app import main

WITHOUT = """
import sys
from pspnet_zoo.cli.app import main
sys.argv = ["pspnet-zoo", *sys.argv[1:]]
try:
    main()
finally:
    heavy = {"torch", "torchvision", "timm", "huggingface_hub", "numpy", "PIL"} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["list"], 0),
        (["list", "--architectures", "*resnet10*"], 0),
        (["train", "--help"], 0),
        (["evaluate", "--help"], 0),
        (["predict", "x.jpg", "--model", "pspnet_lite0.camvdi"], 2),
        (["evaluate", "pspnet_resnet5s", "--data", "."], 2),
        (["info", "pspnet_resnet5s"], 2),
    ],
    ids=str,
)
def test_this_imports_nothing_heavy(arguments, code):
    run = subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True)
    assert run.returncode == code and "Traceback" not in run.stderr, run.stderr


def test_shell_completion_imports_nothing_heavy(monkeypatch):
    monkeypatch.setenv("_PSPNET_ZOO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "pspnet-zoo ev")
    monkeypatch.setenv("COMP_CWORD", "1")
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert run.stdout.split() == ["evaluate"] and not run.stderr


@pytest.mark.slow
def test_it_takes_at_most_a_quarter_of_importing_torch():
    def seconds(*command):
        import resource

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    torch = min(seconds("-c", "import torch") for _ in range(3))
    for arguments in (["--help"], ["--version"], ["list"]):
        ours = min(seconds("-m", "pspnet_zoo.cli", *arguments) for _ in range(3))
        assert ours <= 0.25 * torch, (arguments, ours, torch)


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_pytorch_is_asked_for_large_pages_unless_told_otherwise(monkeypatch, before, after):
    monkeypatch.setattr(sys, "argv", ["pspnet-zoo", "--version"])
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", before or "")
    if before is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    with pytest.raises(SystemExit):
        main()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == after
