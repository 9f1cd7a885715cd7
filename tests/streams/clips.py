"""Small videos made for the tests."""

from fractions import Fraction

import av
import numpy as np

TICK = Fraction(1, 1000)


def image(index, height, width):
    """Red above, blue at the left below it, and a grey square at the lower right that counts."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 4] = (255, 0, 0)
    pixels[height // 4 :, : width // 4] = (0, 0, 255)
    pixels[-8:, -8:] = index * 4 % 256
    return pixels


def times(count, seed=0):
    """Milliseconds of frames at a rate that varies between 11 and 100 a second."""
    steps = np.random.default_rng(seed).integers(10, 90, count)
    return [0, *np.cumsum(steps).tolist()[:-1]]


def write_clip(
    path, milliseconds, *, height=48, width=64, rotation=0, sound=False, codec="libx264", first=0, aspect=1, options=None, rate=25
):
    """A video with frames at these times.

    Args:
        path: Its ending says the container.
        milliseconds: Of each frame.
        height: As stored, before the rotation.
        width: As stored.
        rotation: By which players turn it counter-clockwise, in degrees.
        sound: Add a tone, as AAC.
        codec: Of the video.
        first: Added to all times, in milliseconds.
        aspect: Width of a pixel divided by its height, as stored.
        options: Of the container.
        rate: Frames a second, as the header says.
    """
    with av.open(str(path), "w", options=options or {}) as output:
        video = output.add_stream(codec, rate=rate)
        video.height, video.width = height, width
        video.pix_fmt = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
        video.codec_context.time_base = video.time_base = TICK
        video.codec_context.options = {"crf": "10", "preset": "ultrafast"} if codec == "libx264" else {}
        video.codec_context.sample_aspect_ratio = Fraction(aspect)
        if rotation:
            video.set_display_rotation(rotation)
        audio = output.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index, time in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(image(index, height, width), format="rgb24")
            frame.pts, frame.time_base = time + first, TICK
            output.mux(video.encode(frame))
        output.mux(video.encode())
        if audio:
            for start in range(0, milliseconds[-1] * 16, 1024):
                tone = (np.sin(np.arange(start, start + 1024) / 10) * 8000).astype(np.int16)[None]
                frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, start + first * 16, Fraction(1, 16000)
                output.mux(audio.encode(frame))
            output.mux(audio.encode())
    return path


def read_clip(path):
    """(seconds, pixels) of each frame as stored, and the packets of sound as bytes."""
    with av.open(str(path)) as container:
        frames = [(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = [bytes(p) for p in container.demux(audio=0) if p.size] if container.streams.audio else []
    return frames, sound
