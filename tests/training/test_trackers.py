"""Each experiment tracker holds the curve of a run; those that are not installed are refused by name."""

import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.training import log
from pspnet_zoo.training.recipes import TRACKERS, Recipe
from pspnet_zoo.training.train import train

RECIPE = Recipe(iterations=4, batch_size=2, crop=(32, 48), lr=0.01, evaluate_every=2)


@pytest.fixture
def run(net, camvid, tmp_path):
    """A function that trains with a tracker, and returns the losses of the steps and the result."""

    def run(*names, steps=4, resume=False):
        losses = []
        result = train(
            net,
            open_dataset("camvid", camvid, "train"),
            replace(RECIPE, iterations=steps),
            tmp_path / "run",
            resume=resume,
            validation=open_dataset("camvid", camvid, "val"),
            log=names,
            progress=lambda step, loss, rate: losses.append(loss),
        )
        return losses, [entry["miou"] for entry in result.history]

    return run


@pytest.mark.filterwarnings("ignore")  # of its own dependencies
def test_mlflow_holds_the_run_in_a_local_folder(run, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run("mlflow", "tensorboard", steps=2)
    losses, mious = run("mlflow", "tensorboard", resume=True)  # into the same run
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("pspnet-zoo").experiment_id])
    assert found.info.run_name == "run" and found.info.status == "FINISHED" and found.data.params["lr"] == "0.01"
    curve = {point.step: point.value for point in client.get_metric_history(found.info.run_id, "loss/train")}
    assert list(curve) == [1, 2, 3, 4] and list(curve.values())[2:] == pytest.approx(losses)
    assert [point.value for point in client.get_metric_history(found.info.run_id, "miou/val")] == pytest.approx(mious)
    assert len(list((tmp_path / "run" / "mlflow").rglob("*.png"))) == 2 * 3 and (tmp_path / "run" / "tensorboard").is_dir()


def leveldb_records(data):
    """The records of a log in LevelDB's format, after its 7 bytes of header: blocks of 32 KiB of (crc, length, type, part)."""
    at, parts = 7, []
    data = bytes(7) + data
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_wandb_holds_the_run_without_the_network(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="W&B is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run("wandb", steps=2)
    losses, _ = run("wandb", resume=True)
    from wandb.proto import wandb_internal_pb2

    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1 and len(files) == 2  # two parts of one run, which `wandb sync` joins
    curve = {}
    for data in (data for file in files for data in leveldb_records(file.read_bytes()[7:])):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        if "loss/train" in items:
            curve[items["_step"]] = items["loss/train"]
    assert list(curve) == [1, 2, 3, 4] and list(curve.values())[2:] == pytest.approx(losses)
    assert len(list((tmp_path / "run").rglob("*.png"))) == 2 * 3


def test_trackio_holds_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="Trackio is not installed")
    run("trackio", steps=2)
    losses, mious = run("trackio", resume=True)
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("pspnet-zoo", "run")
    curve = {row["step"]: row["loss/train"] for row in rows if "loss/train" in row}
    assert list(curve) == [1, 2, 3, 4] and list(curve.values())[2:] == pytest.approx(losses)
    assert [row["miou/val"] for row in rows if "miou/val" in row] == pytest.approx(mious)


class Tracker:
    """A tracker that keeps an id for the run."""

    def __init__(self, project, **options):
        self.options = options
        started.append(self)
        self.run = SimpleNamespace(id=f"run-{len(started)}", name=f"name-{len(started)}")

    def start(self):
        pass

    def store_init_configuration(self, values):
        pass


started = []


def test_each_of_two_trackers_continues_its_own_run(tmp_path, monkeypatch):
    started.clear()
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(log.LOGGER_TYPE_TO_CLASS, name, Tracker)
    log.Log(tmp_path, RECIPE, 0, True, ("wandb", "trackio"))
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "run-1", "trackio": "name-2"}
    log.Log(tmp_path, RECIPE, 2, True, ("trackio", "wandb"))
    assert (started[2].options["name"], started[3].options["id"]) == ("name-2", "run-1")


def test_a_run_can_do_without_trackers(run, tmp_path):
    losses, _ = run()
    assert len(losses) == 4 and (tmp_path / "run" / "history.csv").exists() and not (tmp_path / "run" / "tensorboard").exists()


def test_unknown_and_missing_trackers_are_refused(net, camvid, tmp_path, monkeypatch):
    dataset = open_dataset("camvid", camvid, "train")
    with pytest.raises(ValueError, match="log is 'visdom'; it can be tensorboard, wandb, mlflow, trackio"):
        train(net, dataset, RECIPE, tmp_path / "run", log=["visdom"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="log is 'wandb', which is not installed; install it by: pip install wandb"):
        train(net, dataset, RECIPE, tmp_path / "run", log=["wandb"])
    assert not (tmp_path / "run").exists() and TRACKERS[0] == "tensorboard"
