"""Result files and what they say they were made from."""

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo import Labels, Predictor
from pspnet_zoo.data.find import Found
from pspnet_zoo.data.images import ImageError, encode_class_masks
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.results.jobs import Job, VideoOptions, plan_jobs
from pspnet_zoo.results.rows import ResultRow, named_error
from pspnet_zoo.results.sink import ResultSink, model_digest
from pspnet_zoo.results.stamp import TIFF_TAG, is_result, make_stamp, read_png_stamp, read_stamp, stamp_png


def write_image(path, seed=0, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


def plan(folder, output, **options):
    found = [Found(path, path.relative_to(folder)) for path in sorted(folder.rglob("*.*"))]
    errors = []
    return plan_jobs(found, output, **{"masks_only": False, "fail": errors.append, **options}), errors


@pytest.fixture
def predictor(net):
    return Predictor(net)


@pytest.fixture
def done(predictor, tmp_path):
    """A sink, and the job of one image that is done."""
    write_image(tmp_path / "in" / "a.png")
    sink = ResultSink("street", model_digest(predictor))
    (job,), _ = plan(tmp_path / "in", tmp_path / "out")
    ((_, row),) = sink.segment(predictor, [job])
    assert row.error is None and not sink.unclaimed and sink.is_done(job)
    return sink, job


def test_a_row_names_its_input_and_its_model(done, predictor):
    import hashlib

    sink, job = done
    row = sink.read_back(job, predictor.labels.names)
    assert row.input_sha256 == hashlib.sha256(job.source.read_bytes()).hexdigest()
    assert (row.model, row.model_sha256, row.path) == ("street", model_digest(predictor), str(job.source))
    assert row.class_fractions == predictor(job.source).class_fractions and (row.height, row.width) == (16, 20)


@pytest.mark.parametrize(
    "change",
    [
        lambda sink, job: write_image(job.source, seed=1),
        lambda sink, job: job.source.unlink(),
        lambda sink, job: (job.source.unlink(), job.source.symlink_to("/proc/self/mem")),
        lambda sink, job: setattr(sink, "model_sha256", "another"),
        lambda sink, job: setattr(sink, "alpha", 0.7),
        lambda sink, job: setattr(sink, "options", {"precision": "bfloat16"}),
        lambda sink, job: job.mask.unlink(),
        lambda sink, job: job.overlay.write_bytes(job.mask.read_bytes()),
        lambda sink, job: Image.open(job.mask).save(job.mask),
        lambda sink, job: job.mask.write_bytes(b""),
        lambda sink, job: job.mask.write_bytes(job.mask.read_bytes()[:60]),
    ],
    ids=[
        "input",
        "no input",
        "unreadable",
        "model",
        "alpha",
        "precision",
        "no mask",
        "other file",
        "edited",
        "empty",
        "cut in its stamp",
    ],
)
def test_what_was_made_from_something_else_is_not_done(done, change):
    sink, job = done
    change(sink, job)
    assert not sink.is_done(job)


def test_alpha_concerns_overlays_only(done, tmp_path):
    sink, job = done
    sink.alpha = 0.7
    (masks_only,), _ = plan(tmp_path / "in", tmp_path / "out", masks_only=True)
    assert sink.is_done(masks_only) and not sink.is_done(job)


def test_the_same_name_in_another_folder_or_format_is_another_image(done, tmp_path):
    sink, _ = done
    write_image(tmp_path / "other" / "a.png", seed=1)
    (job,), _ = plan(tmp_path / "other", tmp_path / "out")
    assert not sink.is_done(job)
    write_image(tmp_path / "in" / "a.bmp", seed=2)
    jobs, _ = plan(tmp_path / "in", tmp_path / "out")
    assert not any(sink.is_done(job) for job in jobs)


def test_a_stamp_changes_no_pixel(done, predictor):
    _, job = done
    with Image.open(job.mask) as mask:
        assert mask.mode == "P" and (np.array(mask) == predictor(job.source).mask).all()
    assert is_result(job.mask) and is_result(job.overlay) and not is_result(job.source)


def test_a_stamp_comes_back_and_nothing_else_is_taken_for_one(tmp_path):
    path, stamp = write_image(tmp_path / "a_mask.png"), make_stamp("in", "model", precision="bfloat16", note="ü\n")
    png = path.read_bytes()
    assert read_png_stamp(path) is None and not is_result(path)
    path.write_bytes(stamp_png(png, stamp))
    assert read_png_stamp(path) == stamp and is_result(path)
    path.write_bytes(stamp_png(png, stamp).replace(b"bfloat16", b"bfloat17"))
    assert read_png_stamp(path) is None
    strange = tmp_path / os.fsdecode(b"caf\xe9_mask.tif")
    strange.write_bytes(encode_class_masks(np.zeros((2, 3, 4)), f"{TIFF_TAG} {stamp}"))
    assert read_stamp(strange) == stamp and is_result(strange)
    strange.write_bytes(encode_class_masks(np.zeros((2, 3, 4))))
    assert read_stamp(strange) is None
    frame = tmp_path / "drive_1234567.png"
    frame.write_bytes(stamp_png(png, stamp))
    assert is_result(frame)
    frame.write_bytes(png)
    assert not is_result(frame)
    path.write_bytes(png[:33] + b"\xff\xff\xff\xfftEXtpspnet_zoo\0")
    assert read_png_stamp(path) is None and read_png_stamp(tmp_path) is None


def test_the_digest_of_a_model_changes_with_all_that_decides_its_results(net):
    digests = {model_digest(Predictor(net))}
    assert digests == {model_digest(Predictor(net))}
    net.labels = Labels(CAMVID.names[::-1])
    digests.add(model_digest(Predictor(net)))
    net.segmentation_head[0].bias.data[0] += 1
    digests.add(model_digest(Predictor(net)))
    net.preprocess = replace(net.preprocess, mean=(0.1, 0.2, 0.3))
    digests.add(model_digest(Predictor(net)))
    assert len(digests) == 4


def test_rows_of_what_is_written_are_there_after_an_interruption(predictor, tmp_path):
    for i in range(9):
        write_image(tmp_path / "in" / f"{i}.png", seed=i)
    jobs, _ = plan(tmp_path / "in", tmp_path / "out", masks_only=True)
    sink = ResultSink("street", "digest")
    results = sink.segment(predictor, jobs, workers=2)
    claimed = [next(results)[0] for _ in range(3)]
    results.close()
    recorded = {job.mask.name for job in (*claimed, *sink.unclaimed)}
    assert recorded == {path.name for path in (tmp_path / "out").iterdir()} and 3 <= len(recorded) < 9


def test_a_file_that_cannot_be_written_is_the_failure_of_its_image(predictor, tmp_path):
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png")
    (tmp_path / "out" / "a_mask.png").mkdir(parents=True)
    jobs, _ = plan(tmp_path / "in", tmp_path / "out", masks_only=True)
    rows = [row for _, row in ResultSink("street", "digest").segment(predictor, jobs)]
    assert "a" in rows[0].error and rows[0].class_fractions is None and rows[1].error is None


@pytest.mark.parametrize("name", ["pipe.png", "zero.png"])
def test_a_pipe_or_a_device_is_not_waited_for_in_tiles(net, tmp_path, name):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    job = Job(tmp_path / name, "a", None, tmp_path / "a_mask.tif")
    with pytest.raises(ImageError, match=f"{name}' cannot be read: it is a folder, a pipe or a device"):
        ResultSink("street", "digest").segment_map(Predictor(net, tile=32), job, lambda done, total: None)


@pytest.mark.parametrize(
    ("error", "said"),
    [(ValueError("'a.png' is bad"), "'a.png' is bad"), (MemoryError(), "'a.png': needs more memory than there is")],
)
def test_the_message_of_an_error_names_its_file(error, said):
    assert named_error("a.png", error) == said


def test_jobs_say_what_is_a_video_and_can_be_told(tmp_path):
    for name in ("a.mp4", "b.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    for kind, expected in ((None, [True, False]), ("image", [False, False]), ("video", [True, True])):
        jobs, errors = plan(tmp_path / "in", tmp_path / "out", kind=kind)
        assert [job.is_video for job in jobs] == expected and not errors
    assert [path.name for path in jobs[0].targets] == ["a_overlay.mp4"]


@pytest.mark.parametrize("masks", ["in", "link"])
def test_a_video_whose_frames_masks_would_overwrite_an_image_gets_no_job(tmp_path, masks):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for name in ("a.mp4", "a_000001.png", "b.mp4", "b_1.png"):
        (tmp_path / "in" / name).touch()
    jobs, (error,) = plan(tmp_path / "in", tmp_path / "out", masks=tmp_path / masks)
    assert [job.source.name for job in jobs] == ["a_000001.png", "b.mp4", "b_1.png"]
    assert str(error) == f"'{tmp_path / 'in' / 'a_000001.png'}' is one of the images to segment; choose another folder with --masks"
    assert len(plan(tmp_path / "in", tmp_path / "out", masks=tmp_path / "masks")[0]) == 4


def test_a_videos_options_are_in_its_stamps(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    (job,), _ = plan(tmp_path / "in", tmp_path / "out")
    options = [VideoOptions(), VideoOptions(every=2), VideoOptions(smooth=0.5), VideoOptions(masks=tmp_path)]
    assert len({ResultSink("street", "digest", video=o).stamp(job, job.overlay, "input") for o in options}) == 4


def test_a_row_has_no_value_that_was_not_given():
    assert ResultRow("a.png").class_fractions is ResultRow("a.png").error is None
