"""The addresses of the server, built with FastAPI."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from .. import __version__
from ..data.images import ImageError, ImageFormatError, ImageSizeError, check_upload
from ..inference.predictor import Predictor
from .access import bearer_check
from .answers import ClassAnswer, SegmentAnswer, SegmentOptions, accepted, classes_of, encode
from .bodies import FIELD, receive_image
from .jobs import WorkQueue
from .limits import ServerLimits, refusal
from .metrics import MEDIA_TYPE, AnswerMiddleware, ServerMetrics

SEGMENT = "/v1/segment"
LOADING_SECONDS = 10
"""Seconds for which a server that is ended waits for a model that is being loaded."""

_log = logging.getLogger(__name__)


class ModelAnswer(BaseModel):
    """A model of the server."""

    name: str
    classes: list[ClassAnswer]
    weights_sha256: str
    max_bytes: int
    max_pixels: int


class ModelsAnswer(BaseModel):
    """The models of the server."""

    models: list[ModelAnswer]


class ErrorAnswer(BaseModel):
    """An error: what is wrong, and what to do next."""

    detail: str


class SegmentationService:
    """A model behind addresses.

    Args:
        name: The model's name for clients; no path of this machine.
        load: Makes the predictor; called in a thread once the server listens, since weights may have to be downloaded.
        limits: See `ServerLimits`.
        token: That requests must carry; None for none.
        loaded: Called once, with None when the model is ready, or the error for which it cannot be loaded.

    Attributes:
        app: The ASGI application.
        queue: The images in work.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Predictor],
        *,
        limits: ServerLimits,
        token: str | None,
        loaded: Callable[[Exception | None], None],
    ) -> None:
        self.name, self.limits = name, limits
        self._load, self._loaded = load, loaded
        self._model: ModelAnswer | None = None
        self.metrics = ServerMetrics(lambda: self.queue.inside)
        self.queue = WorkQueue(workers=limits.workers, waiting=limits.waiting, observe=self.metrics.network_called)
        self.app = FastAPI(
            title="pspnet_zoo",
            version=__version__,
            description="Segments images: every pixel gets a class.",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            responses={401: {"model": ErrorAnswer}},
        )
        self.app.add_middleware(AnswerMiddleware, metrics=self.metrics, path=SEGMENT)
        self.app.add_exception_handler(RequestValidationError, _say_what_is_wrong)  # type: ignore[arg-type]
        self._add_addresses([Depends(bearer_check(token))])

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        loading = threading.Thread(target=self._begin, daemon=True, name="load")
        loading.start()
        yield
        await asyncio.to_thread(loading.join, LOADING_SECONDS)
        await asyncio.to_thread(self.queue.close)

    def _begin(self) -> None:
        try:
            predictor = self._load()
            if predictor.reads_bands:
                raise ValueError(f"'{self.name}' reads images of other bands or depths than photos, which are not served")
            predictor.segment([np.zeros((64, 64, 3), np.uint8)])  # what is made at the first call is made now
            self._model = ModelAnswer(
                name=self.name,
                classes=classes_of(predictor.labels),
                weights_sha256=predictor.runtime.weights_sha256,
                max_bytes=self.limits.bytes,
                max_pixels=self.limits.pixels,
            )
        except Exception as error:
            self._loaded(error)
        else:
            self.queue.start(predictor)
            self._loaded(None)

    def _add_addresses(self, checked: list[Any]) -> None:
        app = self.app
        errors = {status: {"model": ErrorAnswer} for status in (400, 406, 408, 413, 415, 422, 429, 503, 504)}
        binary = {"schema": {"type": "string", "format": "binary"}}
        form = {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: binary["schema"]}}}
        content = {"image/png": binary, "image/jpeg": binary}
        app.post(
            SEGMENT,
            dependencies=checked,
            response_class=Response,
            responses={200: {"model": SegmentAnswer, "description": "By Accept.", "content": content}, **errors},
            openapi_extra={"requestBody": {"required": True, "content": {"image/*": binary, "multipart/form-data": form}}},
        )(self.segment)
        app.get("/v1/models", dependencies=checked, responses={503: {"model": ErrorAnswer}})(self.models)
        app.get("/metrics", dependencies=checked, response_class=Response)(self.show_metrics)
        app.get("/healthz")(self.health)
        app.get("/readyz", responses={503: {"model": ErrorAnswer}})(self.ready)
        app.get("/docs", include_in_schema=False)(self.docs)
        for name, content, kind in _swagger_files():
            app.get(f"/docs/{name}", include_in_schema=False)(_constant(content, kind))

    async def segment(self, request: Request, options: Annotated[SegmentOptions, Query()]) -> Response:
        """Segment an image, sent as the body or as the field `image` of a form.

        The answer has the media type that `Accept` asks for: `application/json` for class fractions and polygons, `image/png` for
        the mask of class ids, `image/jpeg` for the image under the colors of its classes.
        """
        self._check_ready()
        kind = accepted(request.headers.get("accept"))
        options.check_for(kind)
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        try:
            with self.queue.enter() as ticket:
                file = await receive_image(request, self.limits, deadline)
                await asyncio.to_thread(check_upload, BytesIO(file), max_pixels=self.limits.pixels)
                body = await self.queue.run(
                    ticket,
                    file,
                    lambda prediction: encode(prediction, kind, self.name, options),
                    deadline=deadline,
                    gone=_disconnected(request),
                )
        except HTTPException:
            raise
        except Exception as error:
            raise _answer_to(error) from None
        return Response(body, media_type=kind)

    async def models(self) -> ModelsAnswer:
        """List the models with their classes and limits."""
        self._check_ready()
        return ModelsAnswer(models=[self._model] if self._model else [])

    async def health(self) -> dict[str, str]:
        """Answer as long as the server runs."""
        return {"status": "alive"}

    async def ready(self) -> dict[str, str]:
        """Answer with 200 once the model is loaded."""
        self._check_ready()
        return {"status": "ready"}

    async def show_metrics(self) -> Response:
        """Answer with the measures of the server, for Prometheus."""
        return Response(self.metrics.text(), media_type=MEDIA_TYPE)

    async def docs(self) -> HTMLResponse:
        """Show this description as a page."""
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="pspnet_zoo",
            swagger_js_url="/docs/swagger.js",
            swagger_css_url="/docs/swagger.css",
            swagger_favicon_url="data:,",
        )

    def _check_ready(self) -> None:
        if not self.queue.is_ready:
            raise refusal(503, "The model is being loaded. Try again.", retry_after=5)


def _swagger_files() -> list[tuple[str, bytes, str]]:
    """Script and style of the page, which would come from another host otherwise: name, bytes and media type."""
    import fastapi_offline

    folder = Path(fastapi_offline.__file__).parent / "static"
    named = (("swagger.js", "swagger-ui-bundle.js", "text/javascript"), ("swagger.css", "swagger-ui.css", "text/css"))
    return [(name, (folder / file).read_bytes(), kind) for name, file, kind in named]


def _constant(content: bytes, kind: str) -> Callable[[], Any]:
    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


def _answer_to(error: Exception) -> HTTPException:
    """The answer to a request that failed; reasons that are not the image's go into the log."""
    if isinstance(error, ImageError):
        return refusal(
            413 if isinstance(error, ImageSizeError) else 415 if isinstance(error, ImageFormatError) else 422, str(error)
        )
    _log.error("An image was not segmented", exc_info=error)
    if isinstance(error, MemoryError) or "memory" in str(error):
        return refusal(503, "This machine has not enough memory for the image. Send a smaller one.")
    return refusal(500, "This did not work. Whoever runs this server finds the reason in its log.")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _say_what_is_wrong(request: Request, error: RequestValidationError) -> JSONResponse:
    found = error.errors()[0]
    if found["type"] == "extra_forbidden":
        options = ", ".join(SegmentOptions.model_fields)
        return JSONResponse({"detail": f"There is no option '{str(found['loc'][-1])[:40]}'; there are {options}."}, 422)
    return JSONResponse({"detail": f"{found['loc'][-1]}: {found['msg']}."}, 422)
