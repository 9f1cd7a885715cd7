"""The command as a person types it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo import PSPNet
from pspnet_zoo.data.labels import CAMVID


def image(path, size=(56, 40)):
    Image.effect_noise(size, 60).convert("RGB").save(path)
    return path


def test_predict_writes_an_overlay_and_a_mask_and_prints_shares(run, model, tmp_path):
    code, out, _ = run("predict", image(tmp_path / "street.jpg"), "-o", tmp_path / "out", "--model", model)
    assert code == 0 and "fraction of the image" in out and "%" in out
    with Image.open(tmp_path / "out" / "street_mask.png") as mask, Image.open(tmp_path / "out" / "street_overlay.png") as overlay:
        assert mask.size == (56, 40) and mask.mode == "P" and overlay.width > 56


def test_a_bad_file_does_not_stop_the_others(run, model, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    image(folder / "a.jpg")
    (folder / "b.jpg").write_text("no image")
    (folder / "notes.txt").write_text("not looked at")
    image(folder / "c.png", (1, 1))
    (folder / "loop.png").symlink_to("loop.png")
    code, _, err = run("predict", folder, tmp_path / "gone.jpg", "-o", tmp_path / "out", "--model", model)
    assert code == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_mask.png", "a_overlay.png", "c_mask.png", "c_overlay.png"]
    lines = [line for line in err.splitlines() if "Error" in line]
    assert len(lines) == 3 and "No file" in lines[0] and "b.jpg' is not an image" in lines[1] and "loop.png" in lines[2]


def test_every_kind_of_image_is_done(run, model, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for mode, value in (("L", 90), ("P", 3), ("RGBA", (1, 2, 3, 4)), ("I;16", 40000), ("1", 1)):
        Image.new(mode, (20, 30), value).save(folder / f"{mode.replace(';', '')}.png")
    Image.new("CMYK", (20, 30), (0, 9, 9, 0)).save(folder / "CMYK.jpg")
    Image.new("RGB", (10000, 100)).save(folder / "wide.png")
    code, out, _ = run("predict", folder, "-o", tmp_path / "out", "--model", model)
    assert code == 0 and "mean of 7 images" in out and len(list((tmp_path / "out").iterdir())) == 14


def test_images_of_one_name_do_not_overwrite_each_other(run, model, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        image(tmp_path / folder / "a.jpg")
    image(tmp_path / "x" / "a.png")
    code, _, _ = run("predict", tmp_path / "x", tmp_path / "y", "-o", tmp_path / "out", "--model", model)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert code == 0 and names == [f"a{n}_{kind}.png" for n in ("_2", "_3") for kind in ("mask", "overlay")] + [
        "a_mask.png",
        "a_overlay.png",
    ]


def test_a_name_that_looks_numbered_does_not_overwrite_a_numbered_one(run, model, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        image(tmp_path / folder / "a.jpg")
    image(tmp_path / "a_2.jpg")
    code, _, _ = run("predict", tmp_path / "x", tmp_path / "y", tmp_path / "a_2.jpg", "-o", tmp_path / "out", "--model", model)
    assert code == 0 and len(list((tmp_path / "out").iterdir())) == 6


def test_an_input_is_never_overwritten(run, model, tmp_path):
    first, second = image(tmp_path / "a.png"), image(tmp_path / "a_mask.png")
    before = second.read_bytes()
    code, _, err = run("predict", first, second, "-o", tmp_path, "--model", model)
    assert code == 2 and "is one of the images to segment" in err and second.read_bytes() == before


def test_an_empty_folder_is_said(run, model, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = run("predict", tmp_path / "empty", "-o", tmp_path / "out", "--model", model)
    assert code == 2 and "No images in" in err


TRAIN = ["train", "--recipe", "camvid", "-o", "run", "--data", "{camvid}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "{camvid}/val/000.png", "--model", "pspnet_nowhere"], "Unknown model 'pspnet_nowhere'"),
        (["info", "pspnet_r5"], "Unknown model 'pspnet_r5'"),
        (["evaluate", "pspnet_lite0.camvid", "--data", "/nowhere"], "No folder '/nowhere'"),
        (["evaluate", "pspnet_lite0.camvid", "--data", "{camvid}", "--protocol", "slide"], "protocol is 'slide'; it can be whole"),
        (["evaluate", "pspnet_nowhere", "--data", "{camvid}"], "Unknown model 'pspnet_nowhere'"),
        (["train", "--recipe", "camvid", "-o", "run", "--data", "/nowhere"], "No folder '/nowhere/train'"),
        ([*TRAIN, "--crop", "0", "64"], "crop is (0, 64); it must be positive"),
        ([*TRAIN, "--iterations", "0"], "iterations is 0; it must be positive"),
        ([*TRAIN, "--dataset", "kitti"], "dataset is 'kitti'"),
        ([*TRAIN, "--init", "/nowhere"], "No file or folder '/nowhere'"),
        ([*TRAIN, "--init", "pspnet_lite0.voc"], "'pspnet_lite0' has no weights 'voc'"),
        ([*TRAIN, "--resume"], "holds no run to continue"),
        (["train", "-o", "run"], "There is nothing to train on; give --data, or --teacher and --unlabelled"),
        (["train", "-o", "run", "--unlabelled", "{camvid}/test"], "There is nothing to train on"),
        ([*TRAIN, "--teacher", "pspnet_lite0.camvid", "--teacher-protocol", "all"], "--teacher-protocol is 'all'; it can be whole"),
        ([*TRAIN, "--teacher", "pspnet_lite0.camvid", "--teacher-mapping", "m.json"], "No file 'm.json'"),
        ([*TRAIN, "--teacher-confidence", "2"], "teacher_confidence is 2.0; it must be between 0 and 1"),
        ([*TRAIN, "--recipe", "mine"], "recipe is 'mine'; it can be auto, paper, semseg"),
        (["data", "check", "/nowhere"], "No folder '/nowhere'"),
        (["data", "check", "/nowhere", "--dataset", "kitti"], "dataset is 'kitti'; it can be camvid, cityscapes, folder"),
        (["data", "check", "{camvid}", "--dataset", "camvid", "--split", "all"], "split is 'all'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(run, camvid, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*[a.format(camvid=camvid) for a in arguments])
    assert code == 2 and message in err
    assert [line for line in err.splitlines() if line.strip()][-1].startswith("Error: ") and "Traceback" not in err


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="permissions do not bind root")
def test_unreadable_folders_and_unwritable_output_are_said(run, model, tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    code, _, err = run("predict", tmp_path / "locked", "-o", tmp_path / "out", "--model", model)
    assert code == 2 and "locked" in err
    code, _, err = run("predict", image(tmp_path / "a.png"), "-o", tmp_path / "locked" / "out", "--model", model)
    assert code == 2 and "locked" in err


def test_an_output_that_is_a_file_is_said(run, model, tmp_path):
    code, _, err = run("predict", image(tmp_path / "a.png"), "-o", image(tmp_path / "b.png"), "--model", model)
    assert code == 2 and "b.png" in err and "Traceback" not in err


def test_train_then_evaluate_then_predict(run, camvid, tmp_path):
    options = ["--recipe", "camvid", "--iterations", 4, "--batch-size", 2, "--crop", 32, 48, "--workers", 0]
    options += ["--model", "pspnet_test_efficientnet", "--scale", 0.8, 1.2, "--no-photometric", "--evaluate-every", 2]
    code, out, err = run("train", "--data", camvid, "-o", tmp_path / "run", "--checkpoint-every", 2, *options)
    assert code == 0 and "Wrote" in out and "step 4/4  loss" in err and (tmp_path / "run" / "best" / "config.json").exists()
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    provenance = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["provenance"]
    assert provenance["start"] == "untrained" and provenance["recipe"] == recipe
    assert (recipe["crop"], recipe["scale"], recipe["photometric"], recipe["lr"]) == ([32, 48], [0.8, 1.2], False, 0.03)
    code, _, err = run("train", "--data", camvid, "-o", tmp_path / "run", *options)
    assert code == 2 and "already holds a run" in err
    model, report = tmp_path / "run" / "model", tmp_path / "report.json"
    code, out, _ = run("evaluate", model, "--dataset", "camvid", "--data", camvid, "--split", "test", "--json", report)
    numbers = json.loads(report.read_text())
    assert code == 0 and "pavement" in out and set(numbers["iou"]) >= {"sky", "car"}
    assert {"miou", "pixel_accuracy", "loss", "protocol"} <= numbers.keys() and 0 <= numbers["miou"] <= 1
    code, _, _ = run("predict", camvid / "test", "-o", tmp_path / "out", "--model", model)
    assert code == 0
    with Image.open(tmp_path / "out" / "000_mask.png") as mask:
        assert np.array(mask).max() < 11


def test_a_student_is_taught_without_masks_then_with_them_and_other_classes(run, model, camvid, tmp_path):
    options = ["--recipe", "camvid", "--iterations", 2, "--batch-size", 2, "--crop", 32, 48, "--workers", 0]
    options += ["--model", "pspnet_test_efficientnet", "--teacher", model, "--unlabelled", camvid / "test"]
    code, _, err = run("train", "-o", tmp_path / "a", "--unlabelled", camvid / "val", "--teacher-protocol", "whole_ms", *options)
    assert code == 0 and "The teacher's soft labels of 5 images take 0.0 GB in " in err
    assert len(list((tmp_path / "a" / "teacher").glob("*/*.safetensors"))) == 5
    config = json.loads((tmp_path / "a" / "model" / "config.json").read_text())
    assert config["labels"]["names"] == list(CAMVID.names) and config["provenance"]["data"] == "5 images without masks"
    assert config["provenance"]["teachers"]["networks"][0]["name"] == model.name
    mapping = tmp_path / "classes.json"
    mapping.write_text(
        json.dumps({"ground": ["road", "pavement"], "rest": [n for n in CAMVID.names if n not in ("road", "pavement")]})
    )
    code, _, _ = run("train", "-o", tmp_path / "b", "--teacher-mapping", mapping, "--teacher-stride", 2, *options)
    labels = json.loads((tmp_path / "b" / "model" / "config.json").read_text())["labels"]
    assert code == 0 and labels["names"] == ["ground", "rest"]
    exported = tmp_path / "street.onnx"
    assert run("export", model, "-o", exported)[0] == 0
    options += ["--teacher", exported, "--teacher-cache", tmp_path / "kept"]
    code, _, _ = run("train", "-o", tmp_path / "c", "--data", camvid, *options)
    provenance = json.loads((tmp_path / "c" / "model" / "config.json").read_text())["provenance"]
    assert code == 0 and provenance["data"] == "camvid, split train, 5 images; 2 images without masks"
    assert [network["name"] for network in provenance["teachers"]["networks"]] == [model.name, exported.name]
    assert len(list((tmp_path / "kept").glob("*/*.safetensors"))) == 7


def test_evaluate_writes_a_report_a_page_and_the_predictions(run, model, camvid, tmp_path):
    outputs = ["--json", tmp_path / "r.json", "--html", tmp_path / "r.html", "--save-predictions", tmp_path / "predictions"]
    code, out, _ = run("evaluate", model, "--data", camvid, "--protocol", "whole_ms", *outputs)
    assert code == 0 and "scales 0.5, 0.75, 1, 1.25, 1.5, 1.75, flip" in out and "Wrote 3 predictions" in out
    assert json.loads((tmp_path / "r.json").read_text())["protocol_settings"]["flip"] is True
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in (tmp_path / "predictions").iterdir()) == ["000_mask.png", "001_mask.png", "002_mask.png"]


def test_a_split_without_ground_truth_can_only_be_predicted(run, cityscapes, tmp_path):
    network = PSPNet("test_efficientnet", None, classes=19, psp_out_channels=16)
    options = [network.save_pretrained(tmp_path / "model"), "--dataset", "cityscapes", "--data", cityscapes, "--split", "test"]
    code, out, _ = run("evaluate", *options, "--save-predictions", tmp_path / "predictions")
    assert code == 0 and "Wrote 2 predictions" in out and "mIoU" not in out
    names = ["testcity0_000000_000019_pred_labelIds.png", "testcity1_000001_000019_pred_labelIds.png"]
    assert sorted(p.name for p in (tmp_path / "predictions").iterdir()) == names
    for arguments in ([], ["--json", "r.json", "--save-predictions", "p"]):
        code, _, err = run("evaluate", *options, *arguments)
        assert code == 2 and "cityscapes test has no ground truth to compare with; only --save-predictions" in err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, "1"), (signal.SIGTERM, "0")])
def test_stopped_then_killed_then_resumed_is_as_if_never_interrupted(camvid, tmp_path, number, workers):
    def start(folder, *more):
        command = [sys.executable, "-m", "pspnet_zoo.cli", "train", "--recipe", "camvid", "--data", camvid, "-o", tmp_path / folder]
        command += ["--model", "pspnet_test_efficientnet", "--batch-size", "2", "--crop", "32", "48", "--iterations", "60"]
        command += ["--evaluate-every", "0", "--checkpoint-every", "1", "--workers", workers, *more]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def interrupt(process, signal_number, after):
        """At the first checkpoint newer than `after`."""
        path, deadline = tmp_path / "run" / "checkpoint.safetensors", time.monotonic() + 120
        while (path.stat().st_mtime_ns if path.exists() else 0) <= after and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.random() / 4)
        os.killpg(process.pid, signal_number)
        _, err = process.communicate(timeout=60)
        return path.stat().st_mtime_ns, err

    process = start("run")
    written, err = interrupt(process, number, 0)
    assert process.returncode == 128 + number and "continue with --resume" in err and "Traceback" not in err
    assert not (tmp_path / "run" / "model").exists()
    process = start("run", "--resume")
    interrupt(process, signal.SIGKILL, written)
    assert process.returncode == -signal.SIGKILL
    for process in (start("run", "--resume"), start("whole")):
        process.communicate(timeout=120)
        assert process.returncode == 0
    models = [tmp_path / folder / "model" / "model.safetensors" for folder in ("run", "whole")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_list_and_info_describe_the_zoo(run):
    code, out, _ = run("list")
    assert code == 0 and "pspnet_lite0.camvid" in out and "measured" in out
    code, out, _ = run("list", "pspnet_r101*", "--architectures")
    assert code == 0 and "pspnet_r101\n" in out and "lite0" not in out
    code, out, _ = run("info", "pspnet_r101")
    assert code == 0 and "65,583,699" in out and "resnet101" in out
    code, out, _ = run("info", "pspnet_lite0.camvid")
    assert code == 0 and "bicyclist" in out and "miou" in out and "measured" in out and "480x360" in out
    assert "preprocess        mean: 0.5, 0.5, 0.5\n" in out and "Preprocess(" not in out


def test_data_check_reports_what_is_there(run, cityscapes):
    code, out, err = run("data", "check", cityscapes, "--dataset", "cityscapes")
    assert code == 0 and "Warning: No pixel is of 'train'" in err and "Error" not in err  # and not that nothing is wrong
    assert "Nothing is wrong" not in out
    assert "train: 4 images, 4 of 64x32" in out and "test: 2 images, 2 of 64x32" in out
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in out.splitlines() if "│" in line}
    assert [float(rows["train"][i].rstrip(" %")) for i in (0, 1, 3)] == [0, 0, 0]  # the class that is nowhere
    assert rows["bicycle"][2].strip() == rows["ignored, of all"][2].strip() == "-"  # the split without truth


def test_data_check_names_every_wrong_file_and_ends_with_two(run, camvid):
    (camvid / "trainannot" / "000.png").unlink()
    (camvid / "val" / "001.png").write_bytes(b"no image")
    code, out, err = run("data", "check", camvid, "--dataset", "camvid")
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert code == 2 and "Nothing is wrong" not in out and "Traceback" not in err
    assert len(lines) == 2 and "000.png' has no mask" in lines[0] and "001.png' is not an image" in lines[1]
    assert run("data", "check", camvid, "--dataset", "camvid", "--split", "test")[0] == 0


def test_data_check_prints_names_as_they_are(run, tmp_path):
    for split in ("a", "[b]"):
        for folder in ("images", "masks"):
            (tmp_path / split / folder).mkdir(parents=True)
            Image.new("L", (8, 6)).save(tmp_path / split / folder / "x.png")
    (tmp_path / "classes.txt").write_text("[red]road\nsky")
    code, out, _ = run("data", "check", tmp_path)
    assert code == 0 and "[b]: 1 image, 1 of 8x6" in out and "[red]road" in out and out.count("[b]") == 2


def test_info_says_how_an_encoder_came_to_its_stride(run):
    code, out, _ = run("info", "pspnet_pit_ti_224")
    assert code == 0 and "resized" in out and "224x224" in out
    code, out, _ = run("info", "pspnet_resnet10t")
    assert code == 0 and "dilated" in out and "largest image" not in out


def test_list_knows_every_backbone_as_an_architecture(run):
    code, out, _ = run("list", "--architectures", "pspnet_swin_tiny*")
    assert code == 0 and "pspnet_swin_tiny_patch4_window7_224" in out


def test_training_says_at_which_scale_a_network_takes_images(run, net, camvid, tmp_path):
    net.preprocess = replace(net.preprocess, input_scale=2.0)
    start = net.save_pretrained(tmp_path / "start")
    options = ["--iterations", 1, "--batch-size", 2, "--crop", 32, 48, "--scale", 0.5, 1.5, "--evaluate-every", 0, "--cpu"]
    code, _, err = run("train", "--data", camvid, "-o", tmp_path / "run", "--init", start, *options)
    assert code == 0 and "input scale factor is 2, times --scale 0.5 to 1.5: images are resized by 1 to 3" in err
