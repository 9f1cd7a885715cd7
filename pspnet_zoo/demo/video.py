"""The page's tab for videos; needs the extra 'video' too."""

import importlib.util
import time
from typing import Any

import gradio as gr

from ..data.images import UPLOAD_RATIO
from ..streams.video import VideoError, overlay_video, read_video_info
from . import visitors
from .models import Models

MAX_SECONDS = 120
"""Longest video."""
MAX_PIXELS = 4096 * 2304
"""Largest frame; several are in memory at a time."""
MAX_COMPUTING = 600
"""Longest computing time of one video, in seconds."""


def is_possible() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def add(offered: Models) -> None:
    """Put the tab's content where Gradio's context is."""

    def on_video(file: str | None, model: str, every: float, progress: gr.Progress = gr.Progress()) -> tuple[str, Any]:  # noqa: B008
        try:
            return "The video under the classes' colours.", _overlay(offered, file, model, round(every), progress)
        except Exception as error:
            return f"⚠ {visitors.message(error, file)}", None

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            film = gr.Video(label="Video", sources=["upload", "webcam"], height=300, elem_id="film")
            visitors.take_uploads_only(film)
            model = visitors.model_menu(offered)
            every = gr.Slider(1, 10, value=2, step=1, label="Segment every n-th frame")
            run = gr.Button("Segment the video", variant="primary", elem_id="segment-video")
        with gr.Column(scale=3, min_width=300):
            status = gr.Markdown(f"Choose a video of up to {MAX_SECONDS} seconds.", elem_id="video-status")
            result = gr.Video(label="Result", interactive=False, elem_id="video-result")
    run.click(
        on_video,
        [film, model, every],
        [status, result],
        api_visibility="private",
        show_progress_on=[result],
        concurrency_id="network",
        concurrency_limit=1,
    )


def _overlay(offered: Models, file: str | None, model: str, every: int, progress: gr.Progress) -> str:
    """The file of the segmented video.

    Raises:
        VideoError: If there is no video, or it is too long or too large.
    """
    if not file:
        raise VideoError("Choose a video first.")
    info = read_video_info(file)
    if info.seconds and info.seconds > MAX_SECONDS:
        raise VideoError(f"This video has {info.seconds:.0f} seconds; this page takes up to {MAX_SECONDS}.")
    height, width = info.size
    if height * width > MAX_PIXELS or max(height, width) > UPLOAD_RATIO * min(height, width):
        raise VideoError(f"This video has {width}x{height} pixels; this page takes up to {MAX_PIXELS / 1e6:.0f} megapixels.")
    segment = offered.predictor(model).smoothed(0)
    target = str(visitors.result_folder() / "overlay.mp4")
    end = time.monotonic() + MAX_COMPUTING
    total = -(-info.frames // every) if info.frames else None
    for done, _ in enumerate(overlay_video(segment, file, target, every=every), 1):
        progress((done, total), desc="Segmenting", unit="frames")
        if time.monotonic() > end:
            raise VideoError(
                f"This video takes longer than {MAX_COMPUTING // 60} minutes here; take fewer frames, or a smaller model."
            )
    return target
