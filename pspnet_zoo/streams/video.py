"""Reads videos, segments their frames, and writes overlay videos with the same times and sound.

Needs the extra `video` (PyAV). Decoding, network and encoding overlap; memory does not grow with the video's length.

Docs: docs/how-to/segment-videos.md.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from .containers import VideoError as VideoError
from .containers import open_container, pyav, sound_streams, time_base
from .pipeline import prefetch

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"})
"""Name endings of files that are taken for videos, lower case."""

P = TypeVar("P")
D = TypeVar("D", bound="Drawable")

_AHEAD = 4  # frames that wait between two steps
_SYSTEM_ERRORS = 4095  # numbers above are FFmpeg's own
_CUT_OFF = 0.5  # seconds that a file may end before its header says, as rounding does
_EDIT = 0.005  # seconds by which edit lists are rounded


class Drawable(Protocol):
    """A prediction that can be drawn over its frame."""

    def overlay(self, alpha: float) -> Image.Image:
        """The frame with the class colours laid over it."""
        ...


@dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    index: int
    """Position among all frames of the video, from 0."""
    time: float
    """Time at which it is shown, in seconds from the video's beginning."""
    pts: int
    """The same time in ticks of the video's time base."""
    pixels: np.ndarray
    """(H, W, 3) uint8 RGB, rotated and mirrored as the file says."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel divided by its height, as players show it after the rotation."""


@dataclass(frozen=True)
class _Sound:
    """A packet of sound with times from the beginning of the file."""

    stream: int
    """Number of its stream. `packet.stream` cannot be asked: the file may be closed by now."""
    packet: "Packet"


@dataclass(frozen=True)
class VideoInfo:
    """The contents of a video's header."""

    frames: int | None
    """Number of frames, estimated where only the duration is known; None if neither is."""
    seconds: float | None
    """Duration."""
    size: tuple[int, int]
    """Height and width of a frame as it is stored, in pixels."""
    sound: list[str]
    """Codecs of its audio streams."""
    comment: str | None
    """The file's comment, where overlay videos keep their stamp."""


def read_video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Read a video's header.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoError: If it is not a video.
        ImportError: If PyAV is not installed.
    """
    with open_container(Path(path)) as container:
        stream = container.streams.video[0]
        seconds = container.duration / 1e6 if container.duration else None
        rate = stream.average_rate  # FFmpeg's guess is a hundred times too large for some files whose rate varies
        frames = stream.frames or (round(seconds * rate) if seconds and rate else None)
        sound = [audio.codec_context.name for audio in sound_streams(container)]
        return VideoInfo(frames, seconds, (stream.height, stream.width), sound, container.metadata.get("comment"))


def read_comment(path: str | os.PathLike[str]) -> str | None:
    """The comment of a video; None if it has none, or the file is missing or not a video."""
    try:
        return read_video_info(path).comment
    except (OSError, ValueError):
        return None


def read_video(path: str | os.PathLike[str], *, every: int = 1) -> Iterator[Frame]:
    """Read the frames of a video; they are decoded in a thread ahead of the caller.

    Args:
        path: Any container and codec that FFmpeg decodes; the first video stream is read.
        every: 2 takes every second frame, and so on.

    Raises:
        ValueError: If `every` is not positive.
        FileNotFoundError: If there is no such file.
        VideoError: If it is not a video; after the last frame, if its end is missing.
        ImportError: If PyAV is not installed.
    """
    if every < 1:
        raise ValueError(f"every is {every}; it must be 1 (each frame) or more")
    for item in prefetch(_decode(Path(path), every), _AHEAD):
        if isinstance(item, Frame):
            yield item


def segment_video(
    segment: Callable[[np.ndarray], P], source: str | os.PathLike[str], *, every: int = 1
) -> Iterator[tuple[Frame, P]]:
    """Segment the frames of a video; decoding and network run ahead of the caller.

    Args:
        segment: Maps (H, W, 3) uint8 RGB to a prediction; called with the frames in order, in a thread.
        source: See `read_video`.
        every: See `read_video`.

    Raises:
        ValueError: As `read_video`.
    """
    return prefetch(((frame, segment(frame.pixels)) for frame in read_video(source, every=every)), _AHEAD)


def overlay_video(
    segment: Callable[[np.ndarray], D],
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    alpha: float = 0.5,
    every: int = 1,
    comment: str | None = None,
) -> Iterator[tuple[Frame, D]]:
    """Segment a video and write it as mp4 (H.264) with the class colours laid over it.

    Frames keep their times, also at a variable frame rate, and the shape of their pixels. Sound is copied where mp4 can hold it.
    A side of an odd number of pixels gets one more row or column, which repeats the last one, since H.264's usual format has even
    sides only. The file appears under its name when the last frame has been taken from the iterator, and not at all if that does
    not happen.

    Args:
        segment: Maps (H, W, 3) uint8 RGB to a prediction.
        source: See `read_video`.
        target: File to write; an older one is replaced.
        alpha: See `Prediction.overlay`.
        every: See `read_video`.
        comment: Text to keep in the file, see `VideoInfo.comment`.

    Yields:
        Each frame with its prediction, once it is encoded.

    Raises:
        OSError: If the file cannot be written, or is a device or pipe.
        ValueError: As `read_video`, after everything that could be read has been written.
    """
    if every < 1:
        raise ValueError(f"every is {every}; it must be 1 (each frame) or more")
    source, target = Path(source), Path(target)
    if target.exists() and not target.is_file():
        raise OSError(f"'{target}' is a folder, pipe or device; an overlay video needs the name of a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.stem}.{os.getpid()}.part.mp4")
    cut_off: VideoError | None = None
    try:
        with _Writer(source, part, target, comment) as writer:
            items = prefetch(_segmented(segment, prefetch(_decode(source, every), _AHEAD)), _AHEAD)
            while True:
                try:
                    item = next(items)
                except StopIteration:
                    break
                except VideoError as error:
                    cut_off = error
                    break
                if not isinstance(item, tuple):
                    writer.sound(item)
                    continue
                frame, prediction = item
                writer.frame(np.asarray(prediction.overlay(alpha)), frame)
                yield frame, prediction
            del items
            cut_off = cut_off or writer.damage
            if not writer.frames:
                raise cut_off or VideoError(f"'{source}' has no frame that can be read")
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # a full disk may be noticed only here
        os.replace(part, target)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    if cut_off is not None:
        raise cut_off


def _segmented(segment: Callable[[np.ndarray], D], items: "Iterator[Frame | _Sound]") -> Iterator[Any]:
    """Pair frames with their predictions; packets of sound pass through."""
    for item in items:
        yield (item, segment(item.pixels)) if isinstance(item, Frame) else item


def _decode(path: Path, every: int) -> "Iterator[Frame | _Sound]":
    """Yield frames and packets of sound in the order of the file, with times from the beginning of the file."""
    av = pyav()
    with open_container(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        start = Fraction(container.start_time or 0, 1_000_000)
        offset, base = round(start / time_base(stream)), time_base(stream)
        index, last, end, packets, shown, failure = 0, -(2**62), 0.0, 0, 0, None
        sound = sound_streams(container)
        try:
            for packet in container.demux(stream, *sound):
                if packet.size and packet.pts is not None and packet.time_base:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base - start))
                if packet.stream is not stream:
                    if packet.dts is not None:
                        yield _sound(packet, start)
                    continue
                packets, shown = packets + bool(packet.size), shown + (packet.duration or 0)
                for frame in packet.decode():
                    # a broken file may have no times, or one twice; encoders need them to grow
                    last = max(frame.pts - offset if frame.pts is not None else last + 1, last + 1, -offset)
                    if index % every == 0:
                        pixels, turned = _upright(frame)
                        aspect = stream.sample_aspect_ratio or Fraction(1)
                        yield Frame(index, float(last * base), last, pixels, 1 / aspect if turned else aspect)  # type: ignore[arg-type]
                    index += 1
        except av.FFmpegError as error:
            failure = error.strerror
        counted = stream.frames if "mp4" in container.format.name else 0  # others' headers estimate
        # of a video that an edit list trims, fewer packets are read than there are, and they take the time that the list states
        trimmed = bool(shown and stream.duration) and float((shown - (stream.duration or 0)) * base) >= -_EDIT
        if packets < counted and not trimmed:
            failure = failure or f"{packets} of {counted} frames are there"
        # files whose packets state no duration end a frame later than their last packet begins
        elif container.duration and end + max(_CUT_OFF, 1 / (stream.average_rate or 25)) < container.duration / 1e6:
            failure = failure or f"{end:.1f} of {container.duration / 1e6:.1f} seconds are there"
        if failure:
            raise VideoError(f"'{path}' is cut off or damaged: {failure}. The frames before that were segmented")


def _sound(packet: "Packet", start: Fraction) -> _Sound:
    shift = round(start / (packet.time_base or Fraction(1, 1000)))
    packet.pts, packet.dts = (None if time is None else time - shift for time in (packet.pts, packet.dts))
    return _Sound(packet.stream_index, packet)


def _upright(frame: "VideoFrame") -> tuple[np.ndarray, bool]:
    """(H, W, 3) uint8 RGB, rotated by quarters and mirrored as the frame's display matrix says, and whether the sides changed."""
    pixels = frame.to_ndarray(format="rgb24")
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return pixels, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5]  # x' = a x + c y, y' = b x + d y
    if turned := bool(abs(b) > abs(a)):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]), turned


class _Writer:
    """An mp4 file of H.264 with the time base and the sound of another file; `name` is the file's name in errors."""

    def __init__(self, source: Path, path: Path, name: Path, comment: str | None) -> None:
        self.frames = 0
        self.damage: VideoError | None = None  # packets of sound were left out
        self._early: list[Packet] = []  # sound before the first image, whose size opens the file
        self._source, self._path, self._name, self._comment, self._av = source, path, name, comment, pyav()

    def __enter__(self) -> "_Writer":
        self._input: InputContainer = open_container(self._source)
        try:
            self._output: OutputContainer = self._av.open(str(self._path), "w", format="mp4")
        except self._av.FFmpegError as error:
            self._input.close()
            raise self._unwritable(error) from None
        if self._comment:
            self._output.metadata["comment"] = self._comment
        video = self._input.streams.video[0]
        self._base = time_base(video)
        self._video: VideoStream = self._output.add_stream("libx264", rate=video.average_rate or 25)
        self._sound = {
            audio.index: self._output.add_stream_from_template(audio)
            for audio in sound_streams(self._input)
            if audio.codec_context.name in self._output.supported_codecs
        }
        return self

    def __exit__(self, *error: object) -> None:
        whole = self.frames > 0 and error[0] is None
        try:
            if whole:
                self._mux(self._encoded(None))
        finally:
            try:
                self._output.close()
            except (self._av.FFmpegError, ValueError) as problem:
                if whole:
                    raise self._unwritable(problem) from None
            finally:
                self._input.close()

    def _encoded(self, frame: "VideoFrame | None") -> "list[Packet]":
        try:
            return self._video.encode(frame)
        except self._av.FFmpegError as error:
            what = f"a video in H.264 of {self._video.width}x{self._video.height} pixels"
            raise VideoError(f"'{self._source}' cannot become {what}: {error.strerror or error}") from None

    def _mux(self, packets: "list[Packet] | Packet") -> None:
        try:
            self._output.mux(packets)
        except self._av.FFmpegError as error:
            raise self._unwritable(error) from None

    def _mux_sound(self, packet: "Packet") -> None:
        try:
            self._mux(packet)
        except VideoError as error:
            self.damage = error

    def _unwritable(self, error: Exception) -> OSError | VideoError:
        """The error for the caller. FFmpeg has the same for a full disk and for packets of a damaged file; their reasons differ."""
        reason, number = getattr(error, "strerror", None) or error, getattr(error, "errno", 0)
        if number in (errno.EINVAL, errno.ERANGE) or number > _SYSTEM_ERRORS:
            return VideoError(f"'{self._source}' is damaged: not all of it can be written into another video ({reason})")
        return OSError(f"'{self._name}' cannot be written: {reason}")

    def frame(self, pixels: np.ndarray, like: Frame) -> None:
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if not self.frames:
            self._begin(pixels.shape[0], pixels.shape[1], like.pixel_aspect)
        frame = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = like.pts, self._base
        self.frames += 1
        self._mux(self._encoded(frame))

    def _begin(self, height: int, width: int, pixel_aspect: Fraction) -> None:
        context = self._video.codec_context
        context.sample_aspect_ratio = pixel_aspect
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._video.time_base = context.time_base = self._base
        context.options = {"crf": "20", "preset": "veryfast"}
        context.colorspace = 6  # SMPTE 170M, what FFmpeg converts RGB to
        for packet in self._early:
            self._mux_sound(packet)

    def sound(self, sound: _Sound) -> None:
        if (stream := self._sound.get(sound.stream)) is None:
            return
        sound.packet.stream = stream
        if self.frames:
            self._mux_sound(sound.packet)
        else:
            self._early.append(sound.packet)
