"""The page: a photo in, its classes out. Built with Gradio."""

import base64
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported: nothing is sent anywhere
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import numpy as np
from PIL import Image

from ..data.images import ImageError
from ..inference.prediction import Prediction
from ..inference.predictor import DEFAULT_MODEL
from ..storage.errors import WeightsError
from . import video
from .models import Models

HERE = Path(__file__).parent
EXAMPLES = sorted(HERE.glob("examples/*.jpg"))
"""Streets of Lund from mapillary/OpenSfM (BSD-2-Clause)."""

MAX_FILE = "30mb"
MAX_PIXELS = 50_000_000
MAX_QUEUE = 20
"""People who wait at a time; more are told to come later."""
SHOWN_SIDE = 1600
"""Longest side of what the page shows, in pixels; what it saves has the photo's own size."""

_FONTS = ("system-ui", "sans-serif")  # the reader's own: Gradio's default ones are fetched from another host
_THEME = gr.themes.Soft(primary_hue="indigo", font=_FONTS, font_mono=("ui-monospace", "monospace")).set(
    # the theme's own colours have too little contrast for WCAG AA
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_600",
    block_label_text_color="*primary_800",
    block_title_text_color="*primary_800",
    block_label_text_color_dark="white",
    block_title_text_color_dark="white",
    # white fields on white have no edges
    block_border_width="1px",
    input_border_color="*neutral_300",
)
_CSS = """
footer button, button[role="tab"] { color: var(--body-text-color) !important }
footer .divider { display: none }
#page { max-width: 1180px; margin: 0 auto }
#status p { min-height: 1.5em }
"""
_NAME_EXAMPLES = """() => document.querySelectorAll(".gallery-item").forEach(
    (button, i) => button.setAttribute("aria-label", `Example ${i + 1}`))"""  # for screen readers


def build(models: Sequence[str] = (DEFAULT_MODEL,), *, zoo: bool = True) -> gr.Blocks:
    """The page, for `launch`.

    Args:
        models: Names of the zoo, folders, exported files or repositories to offer first.
        zoo: Also offer the zoo's other checkpoints, fetched when they are chosen.

    Raises:
        ValueError: If a name is unknown.
    """
    offered = Models(models, zoo=zoo)

    def segment(file: str | None, model: str, progress: gr.Progress) -> Prediction:
        def fetched(have: int, total: int | None) -> None:
            progress((have, total) if total else None, desc="Fetching the weights", unit="bytes")

        _check(file)
        predictor = offered.predictor(model, fetched)
        progress(0.5, desc="Segmenting")
        return predictor(str(file))

    def on_page(file: str | None, model: str, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        try:
            prediction = segment(file, model, progress)
        except _EXPECTED as error:
            kept = None if isinstance(error, ImageError) else gr.skip()  # the browser would show that it is broken
            return [kept, f"⚠ {_sentence(error, file)}", None, *[gr.update(value=None, interactive=False)] * 2]
        overlay, mask = _save(prediction)
        height, width = prediction.mask.shape
        said = f"Segmented {width} x {height} pixels. Point at the image to see a class."
        files = [gr.update(value=file, interactive=True) for file in (overlay, mask)]
        return [gr.skip(), said, _shown(prediction), *files]

    def by_name(file: str | None, model: str, progress: gr.Progress = gr.Progress()) -> tuple[str, str, dict[str, float]]:  # noqa: B008
        """Segment one image: the overlay, the mask of class ids, and each class's fraction of the image."""
        try:
            prediction = segment(file, model, progress)
        except _EXPECTED as error:
            raise gr.Error(_sentence(error, file), print_exception=False) from None
        return *_save(prediction), prediction.class_fractions

    with gr.Blocks(title="pspnet_zoo", analytics_enabled=False, delete_cache=(600, 3600)) as page, gr.Column(elem_id="page"):
        gr.Markdown(
            "# pspnet_zoo\nSegment a photo. It is computed on the machine that runs this page, and deleted within an hour or so."
        )
        with gr.Tab("Photo"), gr.Row(equal_height=False):
            photo, model, run, status, *results = _photo_tab(offered)
        if video.is_possible():
            with gr.Tab("Video"):
                video.add(offered)
        page.load(None, js=_NAME_EXAMPLES)
        run.click(
            on_page,
            [photo, model],
            [photo, status, *results],
            api_visibility="private",
            show_progress_on=results[0],
            concurrency_id="network",
            concurrency_limit=1,
        )
        answers = [gr.File(visible=False), gr.File(visible=False), gr.JSON(visible=False)]
        gr.Button(visible=False).click(
            by_name, [photo, model], answers, api_name="segment", concurrency_id="network", concurrency_limit=1
        )
    return page.queue(max_size=MAX_QUEUE)


def _photo_tab(offered: Models) -> tuple[Any, ...]:
    """Photo, network and button; and what the button changes: sentence, viewer, overlay and mask."""
    with gr.Column(scale=2, min_width=300):
        photo = gr.Image(label="Photo", sources=["upload", "webcam", "clipboard"], type="filepath", height=300, elem_id="photo")
        # the file unopened, so that what is wrong with it is told in this package's words
        photo.preprocess = lambda payload: payload.path if payload else None
        model = gr.Dropdown(offered.choices, value=offered.choices[0][1], label="Network", interactive=True)
        run = gr.Button("Segment", variant="primary", elem_id="segment")
        gr.Examples(
            [[str(file)] for file in EXAMPLES],
            [photo],
            label="Examples",
            cache_examples=False,
            api_visibility="private",
        )
    with gr.Column(scale=3, min_width=300):
        status = gr.Markdown("Choose a photo, or one of the examples.", elem_id="status")
        viewer = gr.HTML(
            value=None,
            html_template=(HERE / "viewer.html").read_text(),
            css_template=(HERE / "viewer.css").read_text(),
            js_on_load=(HERE / "viewer.js").read_text(),
            elem_id="viewer",
            apply_default_css=False,
        )
        with gr.Row():
            overlay = gr.DownloadButton("Save the overlay", interactive=False, elem_id="overlay")
            mask = gr.DownloadButton("Save the mask", interactive=False, elem_id="mask")
    return photo, model, run, status, viewer, overlay, mask


def launch(page: gr.Blocks, **options: Any) -> tuple[Any, str, str]:
    """Serve the page with the limits of this module; `options` are Gradio's own, such as `server_port`."""
    return page.launch(
        theme=_THEME,
        css=_CSS,
        max_file_size=MAX_FILE,
        ssr_mode=False,
        footer_links=["api"],
        quiet=True,
        state_session_capacity=100,
        **options,
    )


_EXPECTED = (ImageError, WeightsError, ValueError, OSError)


def _check(file: str | None) -> None:
    """Refuse what would take too long, from the file's header, before a pixel is decoded.

    Raises:
        ImageError: If there is no image, or too large a one.
    """
    if not file:
        raise ImageError("Choose a photo first")
    too_large = f"This image has more than {MAX_PIXELS / 1e6:.0f} megapixels, the most that the page takes"
    try:
        with Image.open(file) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise ImageError(too_large) from None
    except (OSError, ValueError, SyntaxError):
        return  # the reader says what is wrong
    if width * height > MAX_PIXELS:
        raise ImageError(too_large)


def _sentence(error: Exception, file: str | None) -> str:
    """The message, with the upload's name in place of the path that Gradio gave it."""
    return str(error).replace(str(file), Path(file).name) if file else str(error)


def _save(prediction: Prediction) -> tuple[str, str]:
    """Overlay and mask as files, which Gradio deletes in time."""
    folder = Path(tempfile.mkdtemp(prefix="pspnet_zoo_"))
    prediction.overlay(legend=True).save(folder / "overlay.png")
    prediction.save(folder / "mask.png")
    return str(folder / "overlay.png"), str(folder / "mask.png")


def _shown(prediction: Prediction) -> dict[str, Any]:
    """What viewer.js draws."""
    height, width = prediction.mask.shape
    shrink = min(1.0, SHOWN_SIDE / max(height, width))
    size = max(round(width * shrink), 1), max(round(height * shrink), 1)
    class_fractions = sorted(enumerate(prediction.class_fractions.values()), key=lambda item: -item[1])
    ids = prediction.mask.astype(np.uint8)
    return {
        "photo": _address(Image.fromarray(prediction.image).resize(size), "JPEG", quality=90),
        "ids": _address(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST), "PNG"),
        "names": prediction.labels.names,
        "colors": prediction.labels.colors,
        "class_fractions": [(class_id, fraction) for class_id, fraction in class_fractions if fraction],
    }


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
