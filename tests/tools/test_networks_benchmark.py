"""The comparison of whole networks, with a tiny one in their place."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "networks.py"


@pytest.fixture
def networks(monkeypatch):
    spec = importlib.util.spec_from_file_location("networks_benchmark", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(module.NETWORKS, "tiny", lambda: nn.Conv2d(3, module.CLASSES, 3, padding=1))
    return module


def run(networks, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["networks", *arguments])
    networks.main()


def test_each_size_and_batch_size_has_a_table_of_all_contenders(networks, monkeypatch, capsys):
    run(networks, monkeypatch, "--only", "tiny,tiny/bfloat16", "--size", "8x16", "16x32", "--batch-size", "1", "8", "--rounds", "2")
    printed = capsys.readouterr().out
    headings = re.findall(r"^(\d+x\d+), batch size (\d+)$", printed, re.MULTILINE)
    assert headings == [("8x16", "1"), ("8x16", "8"), ("16x32", "1"), ("16x32", "8")]
    assert re.findall(r"^\| (tiny\S*) \|", printed, re.MULTILINE) == ["tiny", "tiny/bfloat16"] * 4
    assert re.findall(r"\| tiny \| .* \| (.*) \|", printed) == ["1.00"] * 4


def test_images_a_second_are_those_of_the_batch(networks):
    lines = networks.table({"a": [0.5, 0.2, 0.4], "b": [0.25, 0.2, 0.1]}, 8).splitlines()[2:]
    assert lines == ["| a | 400.0 | 20.00 | 1.00 |", "| b | 200.0 | 40.00 | 0.50 |"]


@pytest.mark.parametrize("form", ["float32", "channels_last", "float16", "bfloat16"])
def test_a_form_sets_type_and_memory_format(networks, tmp_path, form):
    dtype, memory_format, _ = networks.FORMS[form]
    scores = networks.build(f"tiny/{form}", "cpu", tmp_path)(torch.randn(2, 3, 8, 16))
    assert scores.shape == (2, networks.CLASSES, 8, 16) and scores.dtype == dtype
    assert scores.is_contiguous(memory_format=memory_format)


def test_two_batches_warm_up_and_contenders_take_turns(networks):
    calls = []
    contenders = {name: lambda x, name=name: calls.append(name) for name in "ab"}
    seconds = networks.compare(contenders, torch.zeros(1, 3, 8, 8), 3)
    assert calls == [*"aabb", *"ababab"] and [len(own) for own in seconds.values()] == [3, 3]


def test_what_has_no_room_is_left_out(networks, capsys):
    def too_large(x):
        raise torch.OutOfMemoryError

    seconds = networks.compare({"a": too_large, "b": lambda x: x}, torch.zeros(1), 2)
    assert list(seconds) == ["b"] and "a: out of memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda"], "--device cuda needs a GPU, and this PyTorch finds none; leave it out to measure on the CPU"),
        (["--only", "tinny"], "There is no contender 'tinny' on 'cpu'; choose from mmseg, "),
        (["--only", "tiny/int4"], "There is no contender 'tiny/int4' on 'cpu'; choose from mmseg, "),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(networks, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        run(networks, monkeypatch, *arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_defaults_exist_and_ours_is_compared_with_mmsegmentation(networks):
    assert networks.DEFAULT["cpu"][0] == networks.DEFAULT["cuda"][0] == "mmseg"
    for name in networks.DEFAULT["cuda"]:
        network, _, form = name.partition("/")
        assert network in networks.NETWORKS and form in ("", *networks.FORMS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_every_form_is_timed_on_a_gpu(networks, monkeypatch, capsys):
    names = ",".join(["tiny", *(f"tiny/{form}" for form in networks.FORMS)])
    run(networks, monkeypatch, "--device", "cuda", "--only", names, "--size", "64x128", "--batch-size", "2", "--rounds", "2")
    assert len(re.findall(r"^\| tiny", capsys.readouterr().out, re.MULTILINE)) == 1 + len(networks.FORMS)
