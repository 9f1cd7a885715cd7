"""Options of `pspnet-zoo train` that make several runs, none, or another network."""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from pspnet_zoo import Labels, from_pretrained
from pspnet_zoo.cli.train import _say_start
from pspnet_zoo.inference.scores import class_scores
from pspnet_zoo.storage.files import write_safetensors
from pspnet_zoo.training.train import TrainingResult

ROOT = Path(__file__).parents[2]
FEW = ["--iterations", 2, "--batch-size", 2, "--crop", 32, 48]
TINY = ["--recipe", "finetune", "--dataset", "camvid", "--model", "pspnet_test_efficientnet"]


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(True)


def test_seeds_are_runs_of_their_own_with_mean_and_spread(run, camvid, tmp_path):
    command = ["train", "--data", camvid, "-o", tmp_path / "runs", *TINY, *FEW, "--seeds", 2, "--seed", 5]
    code, out, err = run(*command, "--workers", 0)
    assert code == 0, err
    found = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    mious = list(found["last_miou"].values())
    assert list(found["last_miou"]) == ["5", "6"] and mious[0] != mious[1]
    assert found["mean"] == pytest.approx(statistics.mean(mious)) and f"Mean {found['mean']:.4f}, standard deviation" in out
    for seed, miou in found["last_miou"].items():
        folder = tmp_path / "runs" / f"seed-{seed}"
        assert json.loads((folder / "result.json").read_text())["last_miou"] == miou and (folder / "model").is_dir()
        assert json.loads((folder / "recipe.json").read_text())["seed"] == int(seed)
    code, out, err = run(*command, "--workers", 0, "--resume")
    assert code == 0 and json.loads((tmp_path / "runs" / "seeds.json").read_text()) == found


@pytest.mark.parametrize("option", ["--init", "--encoder-weights"])
def test_a_run_is_not_resumed_after_the_weights_that_it_started_from_were_replaced(run, camvid, net, tmp_path, option):
    def write():
        net.save_pretrained(tmp_path / "start")
        write_safetensors(tmp_path / "start.safetensors", net.encoder.model.state_dict())

    data = ["train", "--data", camvid, "-o", tmp_path / "run", "--dataset", "camvid", "--recipe", "finetune"]
    init = ["--init", tmp_path / "start"]
    encoder = ["--model", "pspnet_test_efficientnet", "--encoder-weights", tmp_path / "start.safetensors"]
    command = [*data, *FEW, *(init if option == "--init" else encoder), "--workers", 0, "--evaluate-every", 0]
    write()
    code, _, err = run(*command)
    assert code == 0, err
    assert run(*command, "--resume", "--iterations", 3)[0] == 0
    with torch.no_grad():
        next((net.decoder if option == "--init" else net.encoder).parameters()).add_(1)
    write()
    code, _, err = run(*command, "--resume", "--iterations", 4)
    assert code == 2 and "is of another run: the weights that it started from were others" in err


def test_a_complete_run_that_is_resumed_leaves_the_threshold_chosen_since(run, camvid, tmp_path):
    command = ["train", "--data", camvid, "-o", tmp_path / "run", *TINY, *FEW, "--workers", 0, "--evaluate-every", 0]
    assert run(*command)[0] == 0
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    (tmp_path / "run" / "model" / "config.json").write_text(json.dumps({**config, "mark": 1}))
    code, out, _ = run(*command, "--resume")
    assert code == 0 and "model' holds these weights already" in out
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["mark"] == 1
    code, out, _ = run(*command, "--resume", "--iterations", 3)
    assert code == 0 and "Wrote" in out and "mark" not in json.loads((tmp_path / "run" / "model" / "config.json").read_text())


def test_seeds_without_runs_are_not_resumed_and_without_evaluations_say_so(run, camvid, tmp_path):
    command = ["train", "--data", camvid, "-o", tmp_path / "runs", *TINY, *FEW, "--workers", 0, "--seeds", 2]
    code, _, err = run(*command, "--resume")
    assert code == 2 and "holds no run to continue; leave out --resume" in err and not (tmp_path / "runs").exists()
    code, _, err = run(*command, "--evaluate-every", 0)
    assert code == 0 and "Nothing to compare: 0 of 2 seeds have an mIoU" in err and not (tmp_path / "runs" / "seeds.json").exists()


def test_a_drop_path_rate_of_a_frozen_encoder_is_refused(run, camvid, tmp_path):
    command = ["train", "--data", camvid, "-o", tmp_path / "run", "--recipe", "finetune", "--dataset", "camvid", *FEW]
    options = ["--model", "pspnet_test_efficientnet", "--freeze", "encoder", "--drop-path-rate", 0.5]
    code, _, err = run(*command, *options)
    assert code == 2 and "--drop-path-rate is 0.5, which does nothing in a frozen encoder" in err


def test_a_first_step_that_is_not_finite_finds_no_learning_rate(run, camvid, net, tmp_path):
    with torch.no_grad():
        net.decoder.requires_grad_(False)
        next(net.encoder.parameters()).fill_(torch.nan)
    net.save_pretrained(tmp_path / "start")
    command = ["train", "--data", camvid, "-o", tmp_path / "run", "--recipe", "finetune", "--dataset", "camvid", *FEW]
    code, out, err = run(*command, "--init", tmp_path / "start", "--find-lr")
    assert code == 2 and "Learning rate" not in out and "nan" in err.lower()


def test_a_classifier_that_is_made_anew_is_said(run, camvid, net, tmp_path, caplog):
    net.labels = Labels(tuple(name.upper() if name == "sky" else name for name in net.labels.names))
    net.save_pretrained(tmp_path / "start")
    command = ["train", "--data", camvid, "-o", tmp_path / "run", "--recipe", "finetune", "--dataset", "camvid", *FEW]
    assert run(*command, "--init", tmp_path / "start", "--workers", 0, "--evaluate-every", 0)[0] == 0
    assert "start' are others, by sky: its classifier is made anew" in caplog.text


def test_a_learning_rate_is_found_and_nothing_is_trained(run, camvid, tmp_path, monkeypatch):
    from pspnet_zoo.training.methods import rates

    monkeypatch.setattr(rates, "STEPS", 12)
    code, out, err = run("train", "--data", camvid, "-o", tmp_path / "run", *TINY, *FEW, "--find-lr")
    assert code == 0 and "Learning rate " in out, err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["find_lr.csv"]
    lines = (tmp_path / "run" / "find_lr.csv").read_text().splitlines()
    tried = [[float(value) for value in line.split(",")] for line in lines[1:]]
    assert lines[0] == "learning_rate,loss,smoothed_loss" and tried[0][0] == pytest.approx(0.002 / 100)
    assert all(b[0] / a[0] == pytest.approx(100 ** (2 / 11)) for a, b in pairwise(tried))
    best = min(tried, key=lambda each: each[2])[0] / 10
    assert f"Learning rate {best:.2g}: a tenth" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", 0], "--seeds is 0; it can be 1 to 1000"),
        (["--find-lr", "--resume"], "--find-lr goes with neither --seeds nor --resume"),
        (["--log", "visdom"], "log is 'visdom'; it can be tensorboard, wandb, mlflow, trackio"),
        (["--fuse-blocks", "last"], "--fuse-blocks is 'last'; it is a number of last blocks, as 4, or their indices, as 2,5,8,11"),
        (["--feature-cache", "features"], "feature_cache needs an encoder that does not learn, and freeze is 'nothing'"),
        (["--tversky-beta", 0.7], "tversky_beta is 0.7, but tversky_weight is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, camvid, tmp_path, options, message):
    code, _, err = run("train", "--data", camvid, "-o", tmp_path / "run", *TINY, *FEW, *options)
    assert code == 2 and message in " ".join(err.split()), err
    assert not (tmp_path / "run").exists()


def test_a_frozen_transformer_of_fused_blocks_is_trained_from_a_cache(run, camvid, tmp_path):
    options = ["--freeze", "encoder", "--views", 2, "--feature-cache", tmp_path / "features", "--log", "none"]
    vit = ["--recipe", "frozen", "--dataset", "camvid", "--model", "pspnet_test_vit", "--fuse-blocks", "2,5"]
    code, _, err = run("train", "--data", camvid, "-o", tmp_path / "run", *vit, *FEW, *options, "--workers", 0)
    assert code == 0, err
    assert list(from_pretrained(tmp_path / "run" / "model").config["encoder_fuse"]) == [2, 5]
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == 10 and not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("moment", range(10))
def test_ctrl_c_at_a_random_moment_from_main_on_loses_nothing(camvid, tmp_path, moment):
    _interrupt(camvid, tmp_path, random.Random(moment).uniform(0, 12))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("seconds", [0.0])
def test_ctrl_c_as_main_begins_loses_nothing(camvid, tmp_path, seconds):
    _interrupt(camvid, tmp_path, seconds)


# as the installed command does, and a word when `main` is reached
PROGRAM = """
import signal, sys
from pspnet_zoo.cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)
print("main", flush=True)
sys.argv[0] = "pspnet-zoo"
main()
"""


def _interrupt(camvid, tmp_path, seconds):
    output = tmp_path / "run"
    arguments = ["train", "--data", camvid, "-o", output, *TINY, "--iterations", 100_000, "--batch-size", 2, "--crop", 32, 48]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments), "--evaluate-every", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "main\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    if process.returncode == -signal.SIGINT and not ("_prepare()" in err or "app()" in err):
        assert not output.exists()  # the machine was slow, and the command not yet there to hear it
        return
    assert process.returncode == 130, err
    assert "Traceback" not in err
    if (output / "checkpoint.safetensors").exists():
        assert "with a checkpoint; continue with --resume" in err
    else:
        assert ("nothing was changed" if "Stopped" in err else "there is no new checkpoint") in err and not output.exists()


def test_fine_tuning_is_compared_with_its_start(run, camvid, tmp_path):
    def trained(folder, *options):
        command = ["train", "--data", camvid, "-o", tmp_path / folder, "--recipe", "finetune", "--dataset", "camvid", *FEW]
        code, out, err = run(*command, "--workers", 0, "--log", "none", *options)
        assert code == 0, err
        return json.loads((tmp_path / folder / "result.json").read_text()), out

    found, out = trained("new", "--model", "pspnet_test_efficientnet")
    assert found["start_miou"] is None and "The start" not in out
    model, steady = tmp_path / "new" / "model", ["--freeze", "norms", "--lr", 1e-12]
    found, out = trained("same", "--init", model, *steady)
    assert found["start_miou"] == found["best_miou"] and "training made it no better: keep it, or try a lower --lr" in out
    assert f"The start, {model}, had mIoU {found['start_miou']:.4f} on the same images" in out
    assert (tmp_path / "same" / "history.csv").read_text().splitlines()[1].startswith("0,,,")
    found, _ = trained("unmeasured", "--init", model, *steady, "--evaluate-every", 0)
    assert found["start_miou"] is None


def test_a_start_with_other_classes_is_not_measured(run, net, camvid, tmp_path):
    net.labels = Labels(tuple(reversed(net.labels.names)))
    start = net.save_pretrained(tmp_path / "start")
    command = ["train", "--data", camvid, "-o", tmp_path / "run", "--recipe", "finetune", "--dataset", "camvid", *FEW]
    assert run(*command, "--workers", 0, "--init", start)[0] == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["start_miou"] is None


@pytest.mark.parametrize(
    ("mious", "words"),
    [
        ((0.5, 0.5, 0.4), "0.5000 on the same images, and training made it no better"),
        ((0.5, 0.6, 0.5), "0.5000 on the same images, and the last network is no better: take run/best"),
        ((0.5, 0.6, 0.55), "0.5000 on the same images\n"),
    ],
)
def test_what_is_said_of_the_start(mious, words, capsys):
    history = tuple({"step": step, "miou": miou} for step, miou in enumerate(mious))
    _say_start(TrainingResult(2, True, history, Path("run/best")), "street")
    assert f"The start, street, had mIoU {words}" in capsys.readouterr().out


def test_an_evaluation_in_a_pipe_is_a_line_now_and_then(run, camvid, tmp_path, monkeypatch):
    monkeypatch.setattr("pspnet_zoo.cli.training_run._LINE_EVERY", 0)
    code, _, err = run("train", "--data", camvid, "-o", tmp_path / "run", *TINY, *FEW, "--workers", 0)
    assert code == 0 and all(f"evaluating {done}/3" in err for done in (1, 2, 3))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_last_evaluation_is_heard_at_once(run, camvid, tmp_path, monkeypatch, number):
    seen = []

    def interrupted(*arguments):
        seen.append(1)
        os.kill(os.getpid(), number)
        return class_scores(*arguments)

    monkeypatch.setattr("pspnet_zoo.evaluation.evaluate.class_scores", interrupted)
    command = ["train", "--data", camvid, "-o", tmp_path / "run", *TINY, *FEW, "--workers", 0]
    code, _, err = run(*command)
    assert code == 128 + number and len(seen) == 1
    assert "Stopped after step 2 of 2 with a checkpoint; continue with --resume" in err
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.setattr("pspnet_zoo.evaluation.evaluate.class_scores", class_scores)
    code, out, err = run(*command, "--resume")
    assert code == 0 and "Best mIoU" in out and (tmp_path / "run" / "model").is_dir()
