"""Opens videos with PyAV: the checks that every reader needs."""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.images import ImageError
from ..extras import missing_extra

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

_OWN_FILE_ONLY = {  # playlists and scripts would have other files and addresses opened
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,gif,h264,hevc",
    "protocol_whitelist": "file",
}


class VideoError(ImageError):
    """The file is not a video, or is cut off; the message names it."""


def pyav() -> Any:
    """Import the module `av`.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise missing_extra("Reading videos", "video", error) from None
    return av


def open_container(path: Path) -> "InputContainer":
    """Open a file for reading.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoError: If it is not a video.
        ImportError: If PyAV is not installed.
    """
    av = pyav()
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}'")
    try:
        container = av.open(str(path), options=_OWN_FILE_ONLY, metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(f"'{path}' cannot be read as a video: {error.strerror}") from None
    if not container.streams.video:
        container.close()
        raise VideoError(f"'{path}' has no video stream")
    if container.streams.video[0].codec_context is None:
        container.close()
        raise VideoError(f"'{path}' has a video stream of a codec that FFmpeg does not know")
    return container


def sound_streams(container: "InputContainer") -> "list[AudioStream]":
    """The audio streams of a known codec; a damaged file may have one without a decoder."""
    return [audio for audio in container.streams.audio if audio.codec_context is not None and audio.codec_context.name]


def time_base(stream: "VideoStream | AudioStream") -> Fraction:
    """Seconds of a tick of a stream's times."""
    return stream.time_base or Fraction(1, 1000)
