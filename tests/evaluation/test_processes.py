"""Evaluation by several processes, as torchrun starts them."""

import json
import os
import subprocess
import sys

import pytest
from torch import distributed

from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate, predict_all
from pspnet_zoo.inference.protocols import PROTOCOLS


def test_two_processes_give_the_numbers_of_one(net, camvid, tmp_path):
    model = net.save_pretrained(tmp_path / "model")
    reports, predictions = [], []
    for count, launcher in ((1, []), (2, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"])):
        folder = tmp_path / str(count)
        command = [sys.executable, *launcher, "-m", "pspnet_zoo.cli", "evaluate", model, "--data", camvid, "--split", "val"]
        command += ["--json", folder / "report.json", "--save-predictions", folder / "predictions"]
        # torchrun gives each process one thread; sums of floats depend on how many there are
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, env=environment)
        assert done.stdout.count("mIoU") == 1, done.stdout  # only one of them prints
        reports.append(json.loads((folder / "report.json").read_text()))
        predictions.append({p.name: p.read_bytes() for p in (folder / "predictions").iterdir()})
    assert reports[0] == reports[1] and reports[0]["images"] == 3  # odd
    assert predictions[0] == predictions[1] and len(predictions[0]) == 3


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_every_image_is_taken_once(net, camvid, monkeypatch, processes):
    """By processes that run one after the other here: the sums over all are left to the test before."""
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: processes)
    monkeypatch.setattr(distributed, "all_reduce", lambda values: values)
    dataset, taken = open_dataset("camvid", camvid, "train"), []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        predict_all(net, dataset, PROTOCOLS["whole"], lambda index, ids: taken.append(index))
    assert sorted(taken) == list(range(5))


def test_a_process_that_lost_another_says_so(net, camvid, monkeypatch):
    def gone(values):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "all_reduce", gone)
    with pytest.raises(ConnectionError, match=r"Another process stopped.* Connection closed by peer"):
        evaluate(net, open_dataset("camvid", camvid, "val"))
