"""What a person may type, name or have on disk by mistake: one line, and nothing lost."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

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
