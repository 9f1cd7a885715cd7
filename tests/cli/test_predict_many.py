"""`pspnet-zoo predict` on folders and videos, as typed."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo import Labels, Predictor, PSPNet
from pspnet_zoo.cli import app as cli
from tests.inference.damage import damaged


@pytest.fixture
def photos(tmp_path):
    """Nine images of three sizes in three folders, and ten that cannot be read."""
    random = np.random.default_rng(0)
    for i in range(9):
        path = tmp_path / "photos" / ("." if i < 3 else "x" if i < 6 else "x/y") / f"{i}.{'jpg' if i % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40 + i // 4, 57, 3), dtype=np.uint8)).save(path)
    for name, data in damaged().items():
        (tmp_path / "photos" / "x" / name).write_bytes(data)
    return tmp_path / "photos"


def masks(folder):
    return {p.relative_to(folder).as_posix(): without_stamp(p.read_bytes()) for p in sorted(folder.rglob("*_mask.png"))}


def without_stamp(png):
    """The same PNG without the text chunk that follows its header."""
    length = int.from_bytes(png[33:37], "big")
    assert png[37:41] == b"tEXt"
    return png[:33] + png[33 + 12 + length :]


def alone(model, photos):
    """What one-by-one prediction writes."""
    predictor, expected = Predictor(model), {}
    for path in photos.rglob("[0-9].*"):
        buffer = io.BytesIO()
        predictor(path).save(path.with_name("one.png"))
        buffer.write(path.with_name("one.png").read_bytes())
        path.with_name("one.png").unlink()
        expected[path.relative_to(photos).with_suffix("").as_posix() + "_mask.png"] = buffer.getvalue()
    return expected


@pytest.mark.parametrize("options", [[], ["--batch-size", 4, "--workers", 1], ["--batch-size", 3, "--workers", 7, "--masks-only"]])
def test_results_mirror_the_folders_and_equal_one_by_one_prediction(run, model, photos, tmp_path, options):
    code, out, err = run("predict", photos, "-r", "-o", tmp_path / "out", "--model", model, *options)
    assert code == 2 and err.count("Error: ") == 10 and all(name in err for name in damaged()) and "mean of 9 images" in out
    assert masks(tmp_path / "out") == alone(model, photos)
    overlays = [] if "--masks-only" in options else list((tmp_path / "out").rglob("*_overlay.png"))
    assert len([p for p in (tmp_path / "out").rglob("*") if p.is_file()]) == 9 + len(overlays) and len(overlays) in (0, 9)


def test_a_pattern_that_the_shell_left_alone(run, model, photos, tmp_path):
    code, _, _ = run("predict", photos / "**" / "[0-9].jpg", "-o", tmp_path / "out", "--model", model)
    assert code == 0 and sorted(masks(tmp_path / "out")) == ["1_mask.png", "x/3_mask.png", "x/5_mask.png", "x/y/7_mask.png"]


def test_results_inside_the_folder_are_no_images_of_the_next_run(run, model, photos, monkeypatch):
    monkeypatch.chdir(photos)
    for _ in range(2):
        run("predict", ".", "-r", "--model", model)
    assert len(masks(photos / "predictions")) == 9


def test_images_in_the_results_folder_are_segmented_too(run, model, photos):
    (photos / "may").mkdir()
    shutil.copy(photos / "0.png", photos / "may" / "new.png")
    run("predict", photos, "-r", "-o", photos / "may", "--model", model)
    assert (photos / "may" / "may" / "new_mask.png").is_file()
    code, out, err = run("predict", photos / "may", "-o", photos / "may", "--model", model)
    assert code == 0 and "results of 1 file to" in out and "results of earlier runs" in err
    assert (photos / "may" / "new_mask.png").is_file()


def test_what_has_its_results_is_left_out_and_still_reported(run, model, photos, tmp_path):
    arguments = ["predict", photos / "x" / "y", photos, "-o", tmp_path / "out", "--model", model]
    assert run(*arguments, "--report", tmp_path / "first.csv")[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "7_overlay.png").unlink()
    (tmp_path / "out" / ".8_mask.png.half").write_bytes(b"half")
    (tmp_path / "out" / "8_mask.png").unlink()
    code, out, _ = run(*arguments, "--skip-existing", "--report", tmp_path / "second.csv")
    assert code == 0 and "results of 2 files to" in out and "4 were there already" in out
    changed = {p.name for p in before if p.stat().st_mtime_ns != before[p]}
    assert changed == {"7_overlay.png", "7_mask.png", "8_overlay.png", "8_mask.png"}
    first, second = (list(csv.DictReader((tmp_path / f"{n}.csv").read_text().splitlines())) for n in ("first", "second"))
    for rows in (first, second):
        rows.sort(key=lambda row: row["path"])
        for row in rows:
            del row["seconds"]
    assert first == second and len(first) == 6


def test_a_mask_that_was_cut_is_made_again_where_its_row_is_wanted(run, model, photos, tmp_path):
    arguments = ["predict", photos / "0.png", photos / "1.jpg", "-o", tmp_path / "out", "--model", model]
    arguments += ["--report", tmp_path / "r.csv", "--skip-existing"]
    assert run(*arguments)[0] == 0
    mask, whole = tmp_path / "out" / "0_mask.png", (tmp_path / "out" / "0_mask.png").read_bytes()
    mask.write_bytes(whole[:-40])
    code, out, _ = run(*arguments)
    assert code == 0 and "results of 1 file to" in out and "1 were there already" in out and mask.read_bytes() == whole
    assert not any(row["error"] for row in csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file whose reading fails, also for root")
def test_an_image_that_cannot_be_read_any_more_does_not_stop_the_others(run, model, photos, tmp_path):
    arguments = ["predict", photos / "0.png", photos / "1.jpg", "-o", tmp_path / "out", "--model", model, "--skip-existing"]
    assert run(*arguments)[0] == 0
    (photos / "0.png").unlink()
    (photos / "0.png").symlink_to("/proc/self/mem")
    code, out, err = run(*arguments)
    assert code == 2 and "1 were there already" in out and err.count("Error: ") == 1 and "0.png" in err


def test_masks_of_more_than_255_classes_are_reported_again(run, photos, tmp_path):
    torch.manual_seed(0)
    network = PSPNet("test_efficientnet", None, classes=300, psp_out_channels=16)
    network.labels = Labels(tuple(f"class {i}" for i in range(300)))
    arguments = ["predict", photos / "0.png", "-o", tmp_path / "out", "--model", network.save_pretrained(tmp_path / "many")]
    rows = []
    for skip in ([], ["--skip-existing"]):
        assert run(*arguments, *skip, "--report", tmp_path / "r.jsonl")[0] == 0
        rows.append(json.loads((tmp_path / "r.jsonl").read_text()))
        del rows[-1]["seconds"]
    assert rows[0] == rows[1] and not rows[1]["error"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_report_has_a_row_for_each_image_bad_ones_included(run, model, photos, tmp_path, suffix):
    run("predict", photos, "-r", "-o", tmp_path / "out", "--model", model, "--report", tmp_path / f"r.{suffix}")
    text = (tmp_path / f"r.{suffix}").read_text()
    rows = list(csv.DictReader(io.StringIO(text))) if suffix == "csv" else [json.loads(line) for line in text.splitlines()]
    assert sorted(row["path"] for row in rows) == sorted(str(p) for p in photos.rglob("*") if p.is_file())
    predictor = Predictor(model)
    for row in rows:
        if Path(row["path"]).name in damaged():
            assert row["error"] and not row["height"]
            continue
        prediction = predictor(row["path"])
        class_fractions = (
            row["class_fractions"] if suffix == "jsonl" else {n: float(row[f"fraction_{n}"]) for n in prediction.class_fractions}
        )
        assert class_fractions == prediction.class_fractions and not row["error"] and float(row["seconds"]) > 0
        assert (int(row["height"]), int(row["width"])) == prediction.mask.shape


def test_a_link_at_a_results_name_is_replaced_and_not_followed(run, model, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "precious.png").write_bytes(b"precious")
    (tmp_path / "out" / "0_mask.png").symlink_to(tmp_path / "precious.png")
    code, out, _ = run("predict", photos / "0.png", "-o", tmp_path / "out", "--model", model)
    assert code == 0 and (tmp_path / "precious.png").read_bytes() == b"precious" and "1 older file was replaced" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--report", "r.txt"], "must end in one of .csv, .jsonl, .parquet"),
        (["nowhere.jpg"], "No file 'nowhere.jpg'"),
        (["*.nothing"], "No images in '*.nothing'"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(run, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    arguments = [*options, *(["x.jpg"] if options[0][0] == "-" else [])]
    code, _, err = run("predict", *arguments, "--model", "pspnet_r101c.mmseg_cityscapes")
    assert code == 2 and message in err and len(err.splitlines()) == 1  # nothing was fetched


def test_a_file_that_is_not_there_is_said_without_torch(tmp_path):
    program = "import sys\nfrom pspnet_zoo.cli.app import main\nsys.argv = ['pspnet-zoo', 'predict', 'nofile.jpg']\n"
    program += "try:\n    main()\nfinally:\n    assert not {'torch', 'timm', 'huggingface_hub'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (2, "Error: No file 'nofile.jpg'\n")


def test_hostile_and_broken_files_of_a_folder_are_failures_and_the_others_are_done(run, model, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    names = ["a.png", "\x1b[2Jb.png", os.fsdecode(b"caf\xe9.png"), "[red]c.png", "sub/d.png"]
    for name in names:
        Image.effect_noise((24, 16), 60).convert("RGB").save(folder / name)
    (folder / "dead.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "qoi\x1b[31m.png").write_bytes(b"qoif" + b"\0\0\0\x40\0\0\0\x30\3\0")
    options = ["-r", "-o", tmp_path / "out", "--model", model, "--report", tmp_path / "r.csv"]
    code, out, err = run("predict", folder, *options)
    assert code == 2 and "results of 5 files to" in out and not {"\x1b", "\x07"} & set(out + err)
    for said in (
        "No file",
        "dead.png",
        "pipe.png' cannot be read: it is a folder, a pipe or a device",
        "qoi\\x1b[31m.png' cannot be read",
    ):
        assert said in err
    assert len(list((tmp_path / "out").rglob("*_mask.png"))) == 5 and len((tmp_path / "r.csv").read_bytes().splitlines()) == 9
    again = run("predict", tmp_path / "out", "-r", "-o", tmp_path / "next", "--model", model)
    assert again[0] == 2 and "Left out 10 results of earlier runs" in again[2] and "No images in" in again[2]


def test_another_file_of_the_same_name_and_another_model_are_done_again(run, net, model, photos, tmp_path):
    arguments = ["predict", photos / "0.png", "-o", tmp_path / "out", "--report", tmp_path / "r.jsonl", "--skip-existing"]
    assert run(*arguments, "--model", model)[0] == 0
    assert "1 were there already" in run(*arguments, "--model", model)[1]
    for change in ("image", "model"):
        if change == "image":
            (photos / "0.png").write_bytes((photos / "2.png").read_bytes())
        else:
            net.segmentation_head[0].bias.data += 1
            net.save_pretrained(model)
        code, out, _ = run(*arguments, "--model", model)
        assert code == 0 and "results of 1 file to" in out and "2 older files were replaced" in out, change
        row = json.loads((tmp_path / "r.jsonl").read_text())
        assert row["class_fractions"] == Predictor(model)(photos / "0.png").class_fractions


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_leaves_whole_files_and_says_how_to_go_on(model, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(60):
        Image.effect_noise((96, 80), 60).convert("RGB").save(tmp_path / "photos" / f"{i:03}.png")
    command = [sys.executable, "-m", "pspnet_zoo.cli", "predict", tmp_path / "photos", "-o", tmp_path / "out", "--model", model]
    command += ["--report", tmp_path / "r.csv"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 600
    while len(list((tmp_path / "out").glob("*_mask.png"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "--skip-existing continues" in err and "Traceback" not in err
    done = list((tmp_path / "out").iterdir())
    assert 10 <= len(done) < 120 and not [p for p in done if p.name.startswith(".")]
    for path in done:
        with Image.open(path) as image:
            image.load()
    rows = len((tmp_path / "r.csv").read_text().splitlines()) - 1
    assert rows == len(list((tmp_path / "out").glob("*_mask.png")))
    result = subprocess.run([*command, "--skip-existing"], env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0 and len(list((tmp_path / "out").glob("*_mask.png"))) == 60
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 61


class TestVideo:
    @pytest.fixture
    def clip(self, tmp_path):
        pytest.importorskip("av", reason="the extra video is not installed")
        from tests.streams.clips import times, write_clip

        return write_clip(tmp_path / "clip.mkv", times(20), height=47, width=63, rotation=90, sound=True)

    def test_an_overlay_masks_and_a_row_a_frame(self, run, model, clip, tmp_path):
        from tests.streams.clips import read_clip, times

        options = ["--masks", tmp_path / "masks", "--report", tmp_path / "r.jsonl"]
        code, out, err = run("predict", clip, "-o", tmp_path / "out", "--model", model, *options)
        assert code == 0 and "fraction of the image" in out and "frames/s" in err
        frames, sound = read_clip(tmp_path / "out" / "clip_overlay.mp4")
        assert len(frames) == 20 and len(sound) > 5
        rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
        assert [row["frame"] for row in rows] == list(range(20)) and [row["time"] for row in rows] == [t / 1000 for t in times(20)]
        predictions = [prediction for _, prediction in Predictor(model).video(clip)]
        for row, prediction in zip(rows, predictions, strict=True):
            assert row["class_fractions"] == prediction.class_fractions and (row["height"], row["width"]) == (63, 47)
            with Image.open(tmp_path / "masks" / f"clip_{row['frame']:06}.png") as mask:
                assert (np.array(mask) == prediction.mask).all()

    def test_every_nth_frame_and_masks_only(self, run, model, clip, tmp_path):
        options = ["--every", 6, "--masks-only", "--masks", tmp_path / "masks"]
        assert run("predict", clip, "-o", tmp_path / "out", "--model", model, *options)[0] == 0
        assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [f"clip_{i:06}.png" for i in (0, 6, 12, 18)]
        assert not list((tmp_path / "out").iterdir())
        code, _, err = run("predict", clip, "-o", tmp_path / "out", "--model", model, "--masks-only")
        assert code == 2 and "give --masks DIR" in err

    def test_masks_of_frames_are_made_again_if_they_are_gone(self, run, model, clip, tmp_path):
        masks = tmp_path / "masks"
        arguments = ["predict", clip, "-o", tmp_path / "out", "--model", model, "--masks", masks, "--every", 6, "--skip-existing"]
        assert run(*arguments)[0] == 0 and "1 were there already" in run(*arguments)[1]
        shutil.rmtree(masks)
        code, out, _ = run(*arguments)
        assert code == 0 and "results of 1 file to" in out and len(list(masks.iterdir())) == 4

    def test_masks_of_frames_are_no_images_of_the_next_run(self, run, model, clip, tmp_path):
        run("predict", clip, "-o", tmp_path / "out", "--model", model, "--masks", tmp_path / "work" / "masks", "--every", 6)
        Image.new("RGB", (64, 48)).save(tmp_path / "work" / "photo_000001.png")
        code, out, err = run("predict", tmp_path / "work", "-r", "-o", tmp_path / "next", "--model", model)
        assert code == 0 and "Left out 4 results of earlier runs" in err and "results of 1 file to" in out

    def test_a_video_that_is_cut_off_is_done_as_far_as_it_goes_with_exit_code_two(self, run, model, clip, tmp_path):
        from tests.streams.clips import read_clip

        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        code, out, err = run("predict", clip, "-o", tmp_path / "out", "--model", model)
        assert code == 2 and "cut off" in err and "fraction of the image" in out
        assert 0 < len(read_clip(tmp_path / "out" / "clip_overlay.mp4")[0]) < 20

    def test_a_video_that_needs_too_much_memory_does_not_stop_the_next_one(self, run, model, clip, tmp_path, monkeypatch):
        from pspnet_zoo.runtimes.torch import TorchRuntime

        (tmp_path / "other.mkv").write_bytes(clip.read_bytes())
        network, calls = TorchRuntime.__call__, []

        def short(self, x):
            calls.append(x)
            if len(calls) == 3:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
            return network(self, x)

        monkeypatch.setattr(TorchRuntime, "__call__", short)
        code, out, err = run("predict", clip, tmp_path / "other.mkv", "-o", tmp_path / "out", "--model", model)
        assert code == 2 and f"Error: '{clip}': needs more memory than there is\n" in err and "results of 1 file to" in out
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["other_overlay.mp4"]

    def test_a_text_file_called_a_video_does_not_stop_the_images(self, run, model, photos, tmp_path):
        pytest.importorskip("av")
        (tmp_path / "text.mp4").write_text("no video")
        code, _, err = run("predict", tmp_path / "text.mp4", photos / "0.png", "-o", tmp_path / "out", "--model", model)
        assert code == 2 and "cannot be read as a video" in err and len(masks(tmp_path / "out")) == 1
