"""Videos whose headers leave something out."""

import errno
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason="the extra video is not installed")

import av

from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.inference.prediction import Prediction
from pspnet_zoo.streams.video import VideoError, _Writer, overlay_video, read_video, read_video_info
from tests.streams.clips import times, write_clip

COUNT = 30


def test_the_number_of_frames_is_estimated_where_the_header_has_none(tmp_path):
    info = read_video_info(write_clip(tmp_path / "in.mkv", list(range(0, 1000, 40))))
    assert info.frames == pytest.approx(25, abs=1) and info.seconds == pytest.approx(1, abs=0.1)


def test_the_number_of_frames_is_unknown_where_the_rate_varies_and_no_header_has_it(tmp_path):
    info = read_video_info(write_clip(tmp_path / "in.ts", times(COUNT), sound=True))
    assert info.frames is None and info.seconds == pytest.approx(times(COUNT)[-1] / 1000, abs=0.2)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
def test_a_whole_video_of_one_frame_a_second_is_not_called_cut_off(tmp_path, suffix):
    source = write_clip(tmp_path / f"in{suffix}", list(range(0, 5000, 1000)), rate=1)
    assert [frame.time for frame in read_video(source)] == [0, 1, 2, 3, 4]


def test_two_frames_of_one_time_are_kept_apart_by_a_tick(tmp_path):
    def change(packet):
        packet.pts = packet.dts = 40 if packet.pts == 80 else packet.pts

    source = rewrite(write_clip(tmp_path / "in.mkv", [0, 40, 80, 120], codec="mpeg4"), change)
    assert [frame.pts for frame in read_video(source)] == [0, 40, 41, 120]


def test_a_whole_video_whose_last_image_stays_is_not_called_cut_off(tmp_path):
    def change(packet):
        packet.duration = 3000 if packet.pts == 120 else packet.duration

    source = rewrite(write_clip(tmp_path / "in.mkv", [0, 40, 80, 120], codec="mpeg4"), change)
    assert read_video_info(source).seconds == pytest.approx(3.12)
    assert len(list(read_video(source))) == 4


def rewrite(source, change):
    """The same video after a change of its packets."""
    target = source.with_name(f"other{source.suffix}")
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        for packet in before.demux(video=0):
            if packet.size:
                packet.stream = stream
                change(packet)
                after.mux(packet)
    return target


def test_a_missing_packet_is_found_where_a_tick_is_as_long_as_a_frame(tmp_path):
    options = {"movflags": "faststart", "video_track_timescale": "25"}
    source = write_clip(tmp_path / "in.mp4", list(range(0, 2400, 40)), codec="mpeg4", options=options)
    with av.open(str(source)) as container:
        last = max(packet.pos for packet in container.demux(video=0) if packet.size)
    source.write_bytes(source.read_bytes()[:last])
    with pytest.raises(VideoError, match="59 of 60 frames are there"):
        list(read_video(source))


def test_a_video_of_headers_alone_has_no_frame(tmp_path):
    data = write_clip(tmp_path / "in.mp4", times(3), options={"movflags": "frag_keyframe+empty_moov"}).read_bytes()
    (tmp_path / "head.mp4").write_bytes(data[: data.index(b"moof") - 4])
    assert not list(read_video(tmp_path / "head.mp4"))
    with pytest.raises(VideoError, match="head.mp4' has no frame that can be read"):
        list(overlay_video(lambda pixels: pixels, tmp_path / "head.mp4", tmp_path / "out.mp4"))


@pytest.mark.parametrize(("suffix", "first"), [(".mkv", 0), (".mp4", 0), (".ts", 5000)])
def test_sound_keeps_its_times_from_the_beginning_of_the_file(tmp_path, suffix, first):
    source = write_clip(tmp_path / f"in{suffix}", times(COUNT), first=first, sound=True)
    list(overlay_video(segment, source, tmp_path / "out.mp4"))
    before, after = sound_times(source), sound_times(tmp_path / "out.mp4")
    start = before[0] if first else 0
    assert after == pytest.approx([time - start for time in before], abs=1e-3) and len(after) > 10


def sound_times(path):
    with av.open(str(path)) as container:
        return [float(p.pts * p.time_base) for p in container.demux(audio=0) if p.size]


def segment(pixels):
    return Prediction(pixels, np.zeros(pixels.shape[:2], np.uint8), CAMVID)


def test_frames_without_times_come_one_after_the_other(tmp_path):
    source = write_clip(tmp_path / "in.h264", list(range(0, COUNT * 40, 40)))  # a raw stream has no times
    frames = list(read_video(source))
    assert len(frames) == COUNT and (np.diff([frame.time for frame in frames]) > 0).all()


def test_pixels_are_square_where_the_file_does_not_say(tmp_path):
    source = write_clip(tmp_path / "in.mkv", times(3), aspect=0)
    with av.open(str(source)) as container:
        assert not container.streams.video[0].sample_aspect_ratio
    assert next(read_video(source)).pixel_aspect == Fraction(1)


def test_the_error_of_a_cut_off_video_says_how_many_seconds_are_there(tmp_path):
    whole = write_clip(tmp_path / "whole.mkv", list(range(0, 4000, 40))).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match=r"cut off or damaged: [0-3]\.\d of 4\.\d seconds are there"):
        list(read_video(tmp_path / "cut.mkv"))


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, OSError, "'out.mp4' cannot be written: the reason"),
        (errno.EINVAL, VideoError, "'in.mp4' is damaged: not all of it can be written into another video \\(the reason\\)"),
        (1094995529, VideoError, "'in.mp4' is damaged"),  # FFmpeg's AVERROR_INVALIDDATA
    ],
)
def test_a_full_disk_and_a_damaged_video_are_told_apart(number, kind, message):
    writer = _Writer.__new__(_Writer)
    writer._source, writer._name = "in.mp4", "out.mp4"
    with pytest.raises(kind, match=message):
        raise writer._unwritable(av.error.FFmpegError(number, "the reason"))
