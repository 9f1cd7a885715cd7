"""What a person may type, name or have on disk by mistake: one line, and nothing lost."""

import errno
import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pspnet_zoo import PSPNet
from pspnet_zoo.cli import app as cli
from pspnet_zoo.cli import evaluate as evaluate_command
from pspnet_zoo.meta import Labels
from pspnet_zoo.storage.publish import inherited_license

NAMES = ("circle [/b]", "[red]:car:")


@pytest.fixture
def strange(tmp_path):
    """A network and a dataset whose classes have rich's markup in their names, and such an image."""
    net = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8)
    net.labels = Labels(NAMES)
    net.save_pretrained(tmp_path / "model")
    root = tmp_path / "data"
    root.mkdir()
    (root / "classes.txt").write_text("\n".join(NAMES))
    for split in ("train", "val"):
        for kind, pixels in (("images", np.zeros((32, 40, 3), np.uint8)), ("masks", np.eye(32, 40, dtype=np.uint8))):
            (root / split / kind).mkdir(parents=True)
            Image.fromarray(pixels).save(root / split / kind / "[red]x[b].png")
    return tmp_path


def test_names_are_shown_as_they_are(run, strange):
    root, model = strange / "data", strange / "model"
    code, out, _ = run("predict", root / "val" / "images" / "[red]x[b].png", "--model", model, "-o", strange / "out")
    assert code == 0 and "[red]x[b]" in out and any(name in out for name in NAMES)
    for command in (("data", "check", root), ("evaluate", model, "--data", root), ("info", model)):
        code, out, _ = run(*command)
        assert code == 0 and all(name in out for name in NAMES), command


def test_the_layout_is_told_by_the_folders(run, strange, camvid, cityscapes):
    from pspnet_zoo.data.open import guess_layout

    assert [guess_layout(root) for root in (strange / "data", camvid, cityscapes)] == ["folder", "camvid", "cityscapes"]


def test_an_evaluation_is_written_before_it_is_shown(run, strange, monkeypatch):
    def fail(result):
        raise ValueError("no such terminal")

    monkeypatch.setattr(evaluate_command, "_table", fail)
    report = strange / "report.json"
    code, _, err = run("evaluate", strange / "model", "--data", strange / "data", "--json", report)
    assert code == 2 and "no such terminal" in err and json.loads(report.read_text())["images"] == 1


def test_predictions_do_not_go_into_the_dataset(run, strange):
    folder = strange / "data" / "val" / "images"
    code, _, err = run("evaluate", strange / "model", "--data", strange / "data", "--save-predictions", folder)
    assert code == 2 and "is a folder of the dataset" in err and len(list(folder.iterdir())) == 1


def test_an_address_is_refused_whole(run, strange):
    code, _, err = run("predict", "https://example.org/a.jpg", "--model", strange / "model", "-o", strange / "out")
    assert code == 2 and "'https://example.org/a.jpg' is an address" in err and len(err.splitlines()) == 1


def test_a_missing_val_split_names_the_way_on(run, strange):
    import shutil

    shutil.rmtree(strange / "data" / "val")
    code, _, err = run("train", "--data", strange / "data", "-o", strange / "run", "--model", "pspnet_test_efficientnet")
    assert code == 2 and "--evaluate-every 0" in err
    code, out, err = run("data", "check", strange / "data")
    assert code == 0 and "Warning: There is no val split" in err and "Nothing is wrong" not in out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--scale", 2, 1), "the smaller factor comes first"),
        (("--dice-weight", -1), "dice_weight is -1.0; it must be 0 or more"),
        (("--precision", "bf17"), "bf17"),
    ],
)
def test_numbers_of_a_recipe_are_checked(run, strange, option, message):
    code, _, err = run("train", "--data", strange / "data", "-o", strange / "run", *option)
    assert code == 2 and message in err and "Traceback" not in err


def test_a_repositorys_name_is_checked_in_a_dry_run_too(run, strange):
    code, _, err = run("publish", strange / "model", "--to", "bad name!", "--dry-run")
    assert code == 2 and "write it as 'organisation/name'" in err


def test_an_interruption_is_one_line(run, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert run("list") == (130, "", "Error: Interrupted\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("4 GiB"), "There is not enough memory; take smaller images"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory\nat alloc_cpu.cpp"), "There is not enough memory; take smaller"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "No space left on device: 'a.png'. Free some space"),
    ],
    ids=["memory", "torch", "disk"],
)
def test_what_runs_out_is_one_line_with_the_next_step(run, monkeypatch, error, line):
    def command():
        raise error

    monkeypatch.setattr(cli, "app", command)
    code, _, err = run("list")
    assert code == 2 and line in err and err.count("\n") == 1


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has other signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_sigterm_and_sighup_end_a_command_as_ctrl_c_does(run, monkeypatch, number):
    cleaned_up = []

    def command():
        try:
            os.kill(os.getpid(), number)
        finally:
            cleaned_up.append(number)

    monkeypatch.setattr(cli, "app", command)
    assert run("list") == (128 + number, "", "Error: Interrupted\n") and cleaned_up == [number]
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has other signals")
def test_the_exit_code_names_the_signal_where_typer_hears_it_too(run, monkeypatch):
    monkeypatch.setattr("pspnet_zoo.zoo.table.markdown_page", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run("list", "--markdown")[0] == 128 + signal.SIGTERM


def test_a_licence_is_inherited():
    assert inherited_license(None) is None and inherited_license({"start": "untrained"}) is None
    assert inherited_license({"license": "MIT", "start_provenance": {"license": "research"}}) == "MIT"
    assert inherited_license({"start_provenance": {"start_provenance": {"license": "research"}}}) == "research"
    teachers = {"networks": [{"name": "a", "provenance": {"license": "x"}}, {"name": "b", "provenance": {"license": "y"}}]}
    assert inherited_license({"start_provenance": None, "teachers": teachers}) == "x; y"


TRAIN = ("--model", "pspnet_test_efficientnet", "--workers", 0, "--evaluate-every", 0, "--crop", 32, 32, "--batch-size", 2, "--cpu")


def test_a_checkpoint_keeps_its_stride_unless_another_is_asked_for(run, strange):
    net = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8, encoder_output_stride=32)
    net.labels = Labels(NAMES)
    net.save_pretrained(strange / "wide")
    for folder, options, stride in (("a", (), 32), ("b", ("--output-stride", 16), 16)):
        command = ("train", "--data", strange / "data", "-o", strange / folder, "--init", strange / "wide", *TRAIN[2:], *options)
        assert run(*command, "--iterations", 1)[0] == 0
        assert json.loads((strange / folder / "model" / "config.json").read_text())["model"]["encoder_output_stride"] == stride


@pytest.mark.parametrize("option", [("--model", "pspnet_resnet18"), ("--encoder-weights", "imagenet")])
def test_a_checkpoint_to_start_from_goes_with_no_other_weights(run, strange, option):
    code, _, err = run("train", "--data", strange / "data", "-o", strange / "run", "--init", strange / "model", *option)
    assert code == 2 and f"leave out {option[0]} {option[1]}" in err and not (strange / "run").exists()


def test_the_classifier_is_made_anew_for_other_classes(run, strange):
    (strange / "data" / "classes.txt").write_text("road\nsky")
    command = ("train", "--data", strange / "data", "-o", strange / "run", "--init", strange / "model", *TRAIN[2:])
    assert run(*command, "--iterations", 1, "--lr", 1e-9)[0] == 0
    before, after = (load_file(strange / path / "model.safetensors") for path in ("model", "run/model"))
    same = {key for key in before if before[key].is_floating_point() and torch.allclose(before[key], after[key], atol=1e-6)}
    assert "decoder.pyramid.fuse.0.weight" in same or len(same) > 50
    assert not any(key.startswith("segmentation_head") and key.endswith("weight") for key in same)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_ends_the_command_with_its_code(run, strange, monkeypatch, number):
    def interrupted(dataset):
        os.kill(os.getpid(), number)
        raise AssertionError("not reached")

    monkeypatch.setattr("pspnet_zoo.training.run.mask_class_fractions", interrupted)
    command = ("train", "--data", strange / "data", "-o", strange / "run", "--class-weight-power", 0.5, *TRAIN)
    code, _, err = run(*command)
    assert code == 128 + number and "Stopped before the first step; nothing was changed" in err and not (strange / "run").exists()


def test_a_signal_after_the_last_step_keeps_the_result_and_the_code(run, strange, monkeypatch):
    save = PSPNet.save_pretrained

    def interrupted(self, folder, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return save(self, folder, **options)

    monkeypatch.setattr(PSPNet, "save_pretrained", interrupted)
    code, out, err = run("train", "--data", strange / "data", "-o", strange / "run", "--iterations", 1, *TRAIN)
    assert code == 130 and "Wrote" in out and "the run is complete" in err and (strange / "run" / "model" / "config.json").exists()


def test_a_run_without_a_terminal_says_a_line_now_and_then(run, strange, monkeypatch):
    monkeypatch.setattr("pspnet_zoo.cli.training_run._LINE_EVERY", 0)
    code, _, err = run("train", "--data", strange / "data", "-o", strange / "run", "--iterations", 3, *TRAIN)
    assert code == 0 and all(f"step {step}/3  loss" in err for step in (1, 2, 3))


def test_one_class_is_refused_by_check_and_train_alike(run, strange):
    (strange / "data" / "classes.txt").write_text("crack")
    for command in (("data", "check", strange / "data"), ("train", "--data", strange / "data", "-o", strange / "run", *TRAIN)):
        code, _, err = run(*command)
        assert code == 2 and "names one class, 'crack'" in err
    assert not (strange / "run").exists()


def test_the_recipe_is_chosen_by_the_backbone_with_a_word_why(run, strange):
    for model, name in (("pspnet_test_efficientnet", "finetune"), ("pspnet_test_vit", "scratch_adamw")):
        command = ("train", "--data", strange / "data", "-o", strange / name, "--model", model, *TRAIN[2:], "--iterations", 1)
        code, _, err = run(*command, "--seed", 3)
        recipe = json.loads((strange / name / "recipe.json").read_text())
        assert code == 0 and f"Recipe {name}: {model.removeprefix('pspnet_')} is " in err
        assert recipe["optimizer"] == ("momentum" if name == "finetune" else "adamw") and recipe["seed"] == 3
    code, out, err = run(*command[:4], strange / "named", *command[5:], "--recipe", "finetune", "--evaluate-every", 1)
    assert code == 0 and "Recipe" not in err and "Best mIoU" in out and (strange / "named" / "result.json").exists()


def test_warnings_of_pillow_that_name_no_file_stay_silent(run, monkeypatch, recwarn):
    def command():
        code = compile("import warnings; warnings.warn('Image was not the expected size')", "IcoImagePlugin.py", "exec")
        exec(code, {"__name__": "PIL.IcoImagePlugin"})

    monkeypatch.setattr(cli, "app", command)
    cli.main()
    assert not recwarn.list


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("file", "file' is a file, and a folder is needed there; give another name"),
        ("file/below", "leads through a file as if it were a folder; give another path"),
        ("x" * 300, "is too long for a name here; give a shorter one"),
    ],
)
def test_errors_of_the_system_are_sentences(run, tmp_path, path, line):
    (tmp_path / "file").write_text("mine")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for command in (("predict", tmp_path / "a.png", "-o", tmp_path / path), ("train", "--data", tmp_path, "-o", tmp_path / path)):
        code, _, err = run(*command)
        assert code == 2 and "Errno" not in err and "Traceback" not in err
        assert line in err or command[0] == "train"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("path", ["file/report", "folder"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(run, strange, monkeypatch, path):
    def work(*arguments, **options):
        raise AssertionError("not reached")

    monkeypatch.setattr("pspnet_zoo.runtimes.open.open_runtime", work)
    monkeypatch.setattr("pspnet_zoo.inference.predictor.Predictor", work)
    monkeypatch.setattr("pspnet_zoo.deployment.benchmark.compare", work)
    (strange / "file").write_text("mine")
    (strange / "folder.csv").mkdir()
    (strange / "folder").mkdir()
    for command in (
        ("evaluate", strange / "model", "--data", strange / "data", "--json", strange / path),
        ("evaluate", strange / "model", "--data", strange / "data", "--html", strange / path),
        ("rank", strange / "data", "--model", strange / "model", "-o", strange / f"{path}.csv"),
        ("predict", strange / "data", "-r", "--model", strange / "model", "--report", strange / f"{path}.csv"),
        ("benchmark", strange / "model", "--json", strange / path),
    ):
        code, _, err = run(*command)
        assert code == 2 and ("is a file, and a folder" in err or "is a folder, and a file" in err), (command, err)


MANY = 10**12
TOO_MANY = {
    "predict": (("--workers", MANY), ("--batch-size", MANY)),
    "train": tuple((f"--{name}", MANY) for name in ("workers", "batch-size", "iterations", "accumulation", "views", "seeds")),
    "bulk": (("--workers", MANY),),
    "benchmark": (("--threads", MANY), ("--size", f"{MANY}x1"), ("--size", f"1x{MANY}"), ("--size", "9000x9000")),
    "export": (("--size", MANY, 1), ("--size", 1, MANY), ("--size", 9000, 9000)),
    "serve": (
        *((f"--{name}", MANY) for name in ("workers", "queue", "threads")),
        *(
            (f"--{name}", value)
            for name in ("max-megabytes", "max-megapixels", "timeout")
            for value in ("1e300", "inf", "nan", 0, -1)
        ),
    ),
}


@pytest.mark.parametrize(("command", "option"), [(c, option) for c, options in TOO_MANY.items() for option in options], ids=str)
def test_numbers_that_would_exhaust_the_machine_are_refused(run, strange, command, option):
    given = {
        "predict": (strange / "data", "-o", strange / "out"),
        "train": ("--data", strange / "data", "-o", strange / "out"),
        "bulk": (strange / "data", strange / "out"),
        "benchmark": (strange / "model",),
        "export": (strange / "model", "-o", strange / "out.pte"),
        "serve": (strange / "model",),
    }[command]
    if command == "export":
        pytest.importorskip("executorch", reason="needs the extra 'executorch'")
    code, _, err = run(command, *given, *option)
    assert code == 2 and any(word in err for word in ("it must be", "it can be", "must be 1 to", "less than or equal to"))
    assert not list(strange.glob("out*"))
