import os
import re
import sys
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason="the extra video is not installed")

import av

from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.inference.prediction import Prediction
from pspnet_zoo.streams.video import VideoError, overlay_video, read_comment, read_video, read_video_info
from tests.streams.clips import image, read_clip, times, write_clip

COUNT = 40


def segment(pixels):
    """Class 1 where it is reddish, 0 elsewhere."""
    return Prediction(pixels, (pixels[..., 0] > 128).astype(np.uint8), CAMVID)


def close(a, b):
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 6  # of 255: the loss of two encodings


@pytest.mark.parametrize(
    ("suffix", "height", "width", "rotation"),
    [(".mp4", 48, 64, 0), (".mp4", 48, 64, 90), (".mp4", 47, 63, 90), (".mkv", 47, 64, 180), (".mov", 48, 63, 270)],
)
def test_a_video_keeps_its_frames_times_and_sound_and_comes_out_upright(tmp_path, suffix, height, width, rotation):
    milliseconds = times(COUNT)
    source = write_clip(tmp_path / f"in{suffix}", milliseconds, height=height, width=width, rotation=rotation, sound=True)
    seen = list(overlay_video(segment, source, tmp_path / "out.mp4", alpha=0))
    frames, sound = read_clip(tmp_path / "out.mp4")
    assert [time for time, _ in frames] == [Fraction(t, 1000) for t in milliseconds]
    assert [frame.index for frame, _ in seen] == list(range(COUNT)) and len(frames) == COUNT
    assert sound == read_clip(source)[1] and len(sound) > 10
    upright = np.rot90(image(5, height, width), rotation // 90)  # counter-clockwise
    assert close(seen[5][0].pixels, upright)
    padded = np.pad(upright, ((0, upright.shape[0] % 2), (0, upright.shape[1] % 2), (0, 0)), "edge")
    assert close(frames[5][1], padded) and frames[5][1].shape == padded.shape
    assert not list(tmp_path.glob(".*"))


def test_the_overlay_has_the_colours_of_the_classes(tmp_path):
    source = write_clip(tmp_path / "in.mp4", times(3))
    list(overlay_video(segment, source, tmp_path / "out.mp4", alpha=1))
    pixels = read_clip(tmp_path / "out.mp4")[0][1][1]
    for at, class_id in (((4, 30), 1), ((30, 40), 0)):
        assert np.abs(pixels[at].astype(int) - CAMVID.colors[class_id]).max() < 12


def test_every_nth_frame_keeps_its_time(tmp_path):
    milliseconds = times(COUNT)
    source = write_clip(tmp_path / "in.mp4", milliseconds)
    frames = list(read_video(source, every=7))
    assert [frame.index for frame in frames] == list(range(0, COUNT, 7))
    assert [frame.time for frame in frames] == [milliseconds[i] / 1000 for i in range(0, COUNT, 7)]
    list(overlay_video(segment, source, tmp_path / "out.mp4", every=7))
    assert [time for time, _ in read_clip(tmp_path / "out.mp4")[0]] == [Fraction(t, 1000) for t in milliseconds[::7]]
    with pytest.raises(ValueError, match="every is 0"):
        next(read_video(source, every=0))


def test_times_count_from_the_beginning_of_the_file(tmp_path):
    milliseconds = [0, 40, 90, 200, 210]
    source = write_clip(tmp_path / "in.ts", milliseconds, first=5000, sound=True)
    seen = [frame.time for frame in read_video(source)]
    assert np.diff(seen) == pytest.approx(np.diff(milliseconds) / 1000, abs=1e-4) and 0 <= seen[0] < 0.1  # sound may begin earlier
    list(overlay_video(segment, source, tmp_path / "out.mp4"))
    assert [float(time) for time, _ in read_clip(tmp_path / "out.mp4")[0]] == pytest.approx(seen, abs=1e-4)


@pytest.mark.parametrize(("suffix", "options"), [(".mkv", {}), (".mp4", {"movflags": "faststart"})])
def test_a_video_whose_end_is_missing_gives_what_is_there_and_then_says_so(tmp_path, suffix, options):
    milliseconds = times(COUNT)
    whole = write_clip(tmp_path / f"whole{suffix}", milliseconds, sound=True, options=options).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    seen = []
    with pytest.raises(VideoError, match="cut off or damaged"):
        seen.extend(iter_all(overlay_video(segment, cut, tmp_path / "out.mp4"), seen))
    frames, _ = read_clip(tmp_path / "out.mp4")
    assert 5 < len(frames) < COUNT and len(seen) == len(frames)
    assert [time for time, _ in frames] == [Fraction(t, 1000) for t in milliseconds[: len(frames)]]


def trim(path, seconds):
    """Shorten an mp4 as phones do: only its edit lists say so, and all packets stay."""
    data = bytearray(path.read_bytes())
    scale = int.from_bytes(data[(mvhd := data.index(b"mvhd")) + 16 : mvhd + 20])  # ticks a second
    for box in re.finditer(b"elst", bytes(data)):
        data[box.start() + 12 : box.start() + 16] = (seconds * scale).to_bytes(4)
    path.write_bytes(data)


@pytest.mark.parametrize("sound", [False, True])
def test_an_mp4_that_its_edit_list_trims_is_whole(tmp_path, sound):
    source = write_clip(tmp_path / "in.mp4", list(range(0, 6000, 100)), codec="mpeg4", sound=sound)  # a key frame in twelve
    trim(source, 2)
    with av.open(str(source)) as container:
        assert container.streams.video[0].frames == 60 and sum(bool(p.size) for p in container.demux(video=0)) == 25
    assert len(list(read_video(source))) == 20


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_one_packet_that_is_missing_at_the_end_is_found(tmp_path, codec):
    source = write_clip(tmp_path / "in.mp4", list(range(0, 6000, 100)), codec=codec, options={"movflags": "faststart"})
    with av.open(str(source)) as container:
        last = max(packet.pos for packet in container.demux(video=0) if packet.size)
    source.write_bytes(source.read_bytes()[:last])
    with pytest.raises(VideoError, match="cut off or damaged: 59 of 60 frames are there"):
        list(read_video(source))


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_a_damaged_video_is_named_and_the_file_to_write_is_not_blamed(tmp_path, suffix):
    whole = write_clip(tmp_path / f"whole{suffix}", list(range(0, 600, 40)), sound=True).read_bytes()
    bad, failed = tmp_path / f"bad{suffix}", 0
    for seed in range(10):
        random, content = np.random.default_rng(seed), bytearray(whole)
        for place in random.integers(0, len(content), 40 if suffix == ".ts" else 8):
            content[place] = random.integers(256)
        bad.write_bytes(content)
        try:
            for _ in overlay_video(segment, bad, tmp_path / "out.mp4"):
                pass
        except VideoError as error:
            assert f"'{bad}'" in str(error)
            failed += 1
    assert failed and not list(tmp_path.glob(".*"))


def iter_all(items, seen):
    for item in items:
        seen.append(item)
    return []


def test_a_whole_video_is_not_called_cut_off(tmp_path):
    for suffix in (".mp4", ".mkv", ".avi", ".ts"):
        codec = "mpeg4" if suffix == ".avi" else "libx264"
        source = write_clip(tmp_path / f"in{suffix}", list(range(0, 1000, 40)), sound=suffix != ".avi", codec=codec)
        assert len(list(read_video(source))) == 25


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"text.mp4' cannot be read as a video"):
        next(read_video(tmp_path / "text.mp4"))
    with pytest.raises(FileNotFoundError, match="No file"):
        next(overlay_video(segment, tmp_path / "none.mp4", tmp_path / "out.mp4"))
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


def test_a_caller_that_stops_leaves_no_file(tmp_path):
    source = write_clip(tmp_path / "in.mp4", times(COUNT))
    frames = overlay_video(segment, source, tmp_path / "out.mp4")
    next(frames)
    frames.close()
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_an_error_of_the_network_is_raised_and_leaves_no_file(tmp_path):
    source = write_clip(tmp_path / "in.mp4", times(COUNT))
    with pytest.raises(ZeroDivisionError):
        list(overlay_video(lambda pixels: 1 // 0, source, tmp_path / "out.mp4"))
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_the_header_says_how_long_a_video_is(tmp_path):
    info = read_video_info(write_clip(tmp_path / "in.mp4", times(COUNT), sound=True))
    assert info.frames == COUNT and info.sound == ["aac"] and info.seconds == pytest.approx(times(COUNT)[-1] / 1000, abs=0.2)


@pytest.mark.parametrize(("rotation", "expected"), [(0, Fraction(4, 3)), (90, Fraction(3, 4))])
def test_pixels_keep_their_shape(tmp_path, rotation, expected):
    source = write_clip(tmp_path / "in.mkv", times(3), rotation=rotation, aspect=Fraction(4, 3))
    assert next(read_video(source)).pixel_aspect == expected
    list(overlay_video(segment, source, tmp_path / "out.mp4"))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == expected


def test_a_comment_is_kept(tmp_path):
    source = write_clip(tmp_path / "in.mp4", times(3))
    list(overlay_video(segment, source, tmp_path / "out.mp4", comment='{"a": "b, ü"}'))
    assert read_comment(tmp_path / "out.mp4") == '{"a": "b, ü"}' and read_comment(source) is None
    (tmp_path / "text.mp4").write_text("no video")
    assert read_comment(tmp_path / "text.mp4") is read_comment(tmp_path / "none.mp4") is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the file size")
@pytest.mark.parametrize("missing", [1, 200, 3000])
def test_a_full_disk_leaves_the_older_file(tmp_path, missing):
    import resource

    source = write_clip(tmp_path / "in.mp4", times(COUNT), height=96, width=128)
    list(overlay_video(segment, source, tmp_path / "out.mp4"))
    before = (tmp_path / "out.mp4").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - missing, limits[1]))
    try:
        with pytest.raises(OSError, match="out.mp4' cannot be written: .*"):
            list(overlay_video(segment, source, tmp_path / "out.mp4"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "out.mp4").read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_a_pipe_is_not_replaced_by_a_video(tmp_path):
    source = write_clip(tmp_path / "in.mp4", times(3))
    os.mkfifo(tmp_path / "out.mp4")
    with pytest.raises(OSError, match="is a folder, pipe or device"):
        next(overlay_video(segment, source, tmp_path / "out.mp4"))
    assert (tmp_path / "out.mp4").is_fifo()


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    source = write_clip(tmp_path / "in.mp4", [0])
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[video\]'"):
        next(read_video(source))


def test_a_video_that_names_other_files_opens_none(tmp_path):
    write_clip(tmp_path / "other.mp4", times(4))
    for name, script in (
        ("script.mp4", "ffconcat version 1.0\nfile other.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(script)
        with pytest.raises(VideoError, match="cannot be read as a video"):
            next(read_video(tmp_path / name))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_title_that_is_not_utf8_is_no_matter(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Strasse in Koeln"
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"Koeln", b"K\xf6\xf6ln"))  # as old cameras write it
    assert len(list(read_video(path))) == 3


def test_a_video_that_h264_cannot_hold_is_named(tmp_path):
    write_clip(tmp_path / "wide.mkv", [0, 40], height=16, width=17000, codec="ffv1")
    with pytest.raises(VideoError, match=r"wide\.mkv' cannot become a video in H\.264 of 17000x16 pixels"):
        list(overlay_video(segment, tmp_path / "wide.mkv", tmp_path / "out.mp4"))
    assert not (tmp_path / "out.mp4").exists()
