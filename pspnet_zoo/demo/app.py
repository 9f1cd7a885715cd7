"""The page, built with Gradio: a photo in, its classes out."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported: nothing is sent anywhere
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import numpy as np
from PIL import Image
from starlette.middleware import Middleware

from ..data.images import UPLOAD_MEGABYTES, ImageError, check_upload
from ..inference.prediction import Prediction
from ..inference.predictor import DEFAULT_MODEL
from . import video, visitors
from .models import Models

HERE = Path(__file__).parent
EXAMPLES = sorted(HERE.glob("examples/*.jpg"))
"""Streets of Lund from mapillary/OpenSfM (BSD-2-Clause)."""

MAX_QUEUE = 20
"""Requests that wait at a time; further ones are refused."""
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
#viewer { min-height: 14rem }  /* room for the progress bar, which would cover the buttons below */
"""
_NAME_EXAMPLES = """() => document.querySelectorAll(".gallery-item").forEach(
    (button, i) => button.setAttribute("aria-label", `Example ${i + 1}`))"""  # for screen readers
_SCROLL = """matchMedia("(max-width: 700px)").matches
    && document.querySelector("#status").scrollIntoView({ behavior: "smooth" })"""  # on a phone the result is below the photo
_BEGIN = f"""() => {{ {_SCROLL}; return "Segmenting." }}"""
_END = f"() => {{ {_SCROLL} }}"


def build(models: Sequence[str] = (DEFAULT_MODEL,), *, zoo: bool = True) -> gr.Blocks:
    """The page, for `launch`. The first model is loaded, so that one that cannot be is told here.

    Args:
        models: Names of the zoo, folders, exported files or repositories to offer first.
        zoo: Also offer the zoo's other checkpoints, fetched when they are chosen.

    Raises:
        ValueError: If a name is unknown, or the first model has no labels.
        WeightsError: If the first model cannot be loaded.
    """
    visitors.use_private_cache()
    offered = Models(models, zoo=zoo)
    offered.predictor(offered.choices[0][1])

    def segment(file: str | None, model: str, progress: gr.Progress) -> Prediction:
        def fetched(have: int, total: int | None) -> None:
            progress((have, total) if total else None, desc="Downloading the model", unit="bytes")

        _check(file)
        progress(None, desc="Loading the model")
        predictor = offered.predictor(model, fetched)
        progress(None, desc="Segmenting")
        return predictor(str(file))

    def on_page(file: str | None, model: str, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        try:
            prediction = segment(file, model, progress)
            overlay, mask = _save(prediction)
        except Exception as error:
            kept = None if isinstance(error, ImageError) else gr.skip()  # the browser would show a broken image
            return [kept, f"⚠ {visitors.message(error, file)}", None, *[gr.update(value=None, interactive=False)] * 2]
        height, width = prediction.mask.shape
        said = f"Segmented {width} x {height} pixels. Point at the image to see a class."
        files = [gr.update(value=file, interactive=True) for file in (overlay, mask)]
        return [gr.skip(), said, _shown(prediction), *files]

    def by_name(file: str | None, model: str, progress: gr.Progress = gr.Progress()) -> tuple[str, str, dict[str, float]]:  # noqa: B008
        """Segment one image: the overlay, the mask of class ids, and the fraction of the pixels of each class."""
        try:
            prediction = segment(file, model, progress)
            return *_save(prediction), prediction.class_fractions
        except Exception as error:
            raise gr.Error(visitors.message(error, file), print_exception=False) from None

    with gr.Blocks(title="pspnet_zoo", analytics_enabled=False, delete_cache=(600, 3600)) as page, gr.Column(elem_id="page"):
        gr.Markdown(
            "# pspnet_zoo\nSegment a photo. It is processed on the machine that runs this page, and deleted within an hour or so."
        )
        with gr.Tab("Photo"), gr.Row(equal_height=False):
            photo, model, run, examples, status, *results = _photo_tab(offered)
        if video.is_possible():
            with gr.Tab("Video"):
                video.add(offered)
        page.load(None, js=_NAME_EXAMPLES)
        for event in (photo.input, examples.load_input_event.then, run.click):
            event(None, None, status, js=_BEGIN, api_visibility="private")
            event(
                on_page,
                [photo, model],
                [photo, status, *results],
                api_visibility="private",
                show_progress_on=results[0],
                concurrency_id="network",
                concurrency_limit=1,
            ).then(None, js=_END, api_visibility="private")
        answers = [gr.File(visible=False), gr.File(visible=False), gr.JSON(visible=False)]
        gr.Button(visible=False).click(
            by_name, [photo, model], answers, api_name="segment", concurrency_id="network", concurrency_limit=1
        )
    return page.queue(max_size=MAX_QUEUE, api_open=False)  # open routes pass the queue by


def _photo_tab(offered: Models) -> tuple[Any, ...]:
    """Photo, model, button and examples; and what segmenting changes: status, viewer, overlay and mask."""
    with gr.Column(scale=2, min_width=300):
        photo = gr.Image(label="Photo", sources=["upload", "webcam", "clipboard"], type="filepath", height=300, elem_id="photo")
        visitors.take_uploads_only(photo)
        examples = gr.Examples(
            [[str(file)] for file in EXAMPLES],
            [photo],
            label="Examples",
            cache_examples=False,
            api_visibility="private",
        )
        visitors.KEPT.update(sample[0]["path"] for sample in examples.dataset.samples)
        model = visitors.model_menu(offered)
        run = gr.Button("Segment", variant="primary", elem_id="segment")
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
    return photo, model, run, examples, status, viewer, overlay, mask


def launch(page: gr.Blocks, **options: Any) -> tuple[Any, str, str]:
    """Serve the page with the limits of this module; `options` are Gradio's own, such as `server_port`."""
    return page.launch(
        theme=_THEME,
        css=_CSS,
        max_file_size=f"{UPLOAD_MEGABYTES}mb",
        ssr_mode=False,
        footer_links=["api"],
        quiet=True,
        state_session_capacity=100,
        app_kwargs={"middleware": [Middleware(m) for m in (visitors.ClosedRoutes, visitors.LoginLimit, visitors.UploadLimit)]},
        **options,
    )


def _check(file: str | None) -> None:
    """Refuse a photo that would take too long; see `check_upload`."""
    if not file:
        raise ImageError("Choose a photo first.")
    check_upload(Path(file))


def _save(prediction: Prediction) -> tuple[str, str]:
    """Overlay and mask as files, which Gradio deletes in time."""
    folder = visitors.result_folder()
    prediction.overlay(legend=True).save(folder / "overlay.png")
    prediction.save(folder / "mask.png")
    return str(folder / "overlay.png"), str(folder / "mask.png")


def _shown(prediction: Prediction) -> dict[str, Any]:
    """The value of the viewer, see viewer.js."""
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
