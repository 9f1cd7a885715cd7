"""The command `pspnet-zoo serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..extras import missing_extra
from ..model_source import Repository, parse_weights
from ..zoo.entries import Checkpoint
from .terminal import ModelArgument, PrecisionOption, err, is_loopback, say

if TYPE_CHECKING:
    from ..inference.predictor import Predictor


def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in, which need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the bearer token of requests; or set PSPNET_ZOO_SERVE_TOKEN.")
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let everybody in who reaches the address.")] = False,
    max_megabytes: Annotated[float, typer.Option(help="Most megabytes of a request.")] = 30,
    max_megapixels: Annotated[float, typer.Option(help="Most megapixels of an image.")] = 50,
    timeout: Annotated[float, typer.Option(help="Seconds within which a request is answered or refused.")] = 60,
    queue: Annotated[int, typer.Option(help="Most requests that wait; further ones are refused.")] = 20,
    workers: Annotated[int, typer.Option(help="Images segmented at a time.")] = 1,
    threads: Annotated[int | None, typer.Option(show_default="by the runtime", help="CPU threads of an image.")] = None,
    device: Annotated[str | None, typer.Option(show_default="a GPU if there is one", help="Where to run the network.")] = None,
    precision: PrecisionOption = None,
) -> None:
    """Segment images over HTTP.

    POST /v1/segment takes an image and answers with class fractions and polygons, the mask, or an overlay; /docs describes it.
    SIGTERM and Ctrl-C end the server once the requests that have begun are answered. Needs the extra 'serve'.
    """
    found = parse_weights(model)
    # clients need not know where it lies
    name = found.name if isinstance(found, Checkpoint) else model if isinstance(found, Repository) else Path(model).resolve().name
    say("Loading PyTorch", err)
    try:
        from ..serve.access import find_token
        from ..serve.limits import LARGEST, ServerLimits
        from ..serve.server import listen, serve_forever
    except ModuleNotFoundError as error:
        raise missing_extra("The server", "serve", error) from None
    limits = ServerLimits(
        bytes=_millions("--max-megabytes", max_megabytes, LARGEST["bytes"]),
        pixels=_millions("--max-megapixels", max_megapixels, LARGEST["pixels"]),
        seconds=timeout,
        waiting=queue,
        workers=workers,
    )
    token = find_token(token_file, none=no_token, local=is_loopback(host))

    def load() -> "Predictor":
        from ..inference.predictor import Predictor

        predictor = Predictor(model, device=device, precision=precision, threads=threads)
        predictor.require_one_class("The server")
        return predictor

    listener = listen(host, port)
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    say(f"Serving {name} at {address}, described at {address}/docs; Ctrl-C ends it")
    if token is None and not is_loopback(host):
        say("Whoever reaches this address can use it", err)
    serve_forever(listener, name, load, limits=limits, token=token, ready=lambda: say(f"{name} is ready"))
    say("Stopped; all requests that had begun were answered")


def _millions(option: str, value: float, most: int) -> int:
    """The whole number that an option states in millions.

    Raises:
        ValueError: If it is not positive, or above `most`.
    """
    if not 0 < value * 1e6 <= most:
        raise ValueError(f"{option} is {value:g}; it must be positive, at most {most / 1e6:g}")
    return max(round(value * 1e6), 1)
