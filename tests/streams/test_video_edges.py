"""Videos whose headers leave something out."""

import errno
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason="the extra video is not installed")

import av

from pspnet_zoo.streams.video import VideoError, _Writer, read_video, read_video_info
from tests.streams.clips import times, write_clip

COUNT = 30


def test_the_number_of_frames_is_estimated_where_the_header_has_none(tmp_path):
    info = read_video_info(write_clip(tmp_path / "in.mkv", list(range(0, 1000, 40))))
    assert info.frames == pytest.approx(25, abs=1) and info.seconds == pytest.approx(1, abs=0.1)


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
