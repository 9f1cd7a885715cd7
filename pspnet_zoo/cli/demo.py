"""The command `pspnet-zoo demo`."""

import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from ..extras import missing_extra
from .terminal import DEFAULT_MODEL, check_name, err, is_loopback, refuse_idle, say


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to offer first: a name of the zoo, a folder, an exported file, or org/repo. Repeat it for more."),
    ] = None,
    zoo: Annotated[bool, typer.Option(help="Also offer the zoo's other models, downloaded when they are chosen.")] = True,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, show_default="the first free one from 7860", help="Port to listen on.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(metavar="USER:PASSWORD", envvar="PSPNET_ZOO_DEMO_AUTH", help="Ask visitors for these."),
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Also open a public address, through Gradio's servers.")] = False,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    space: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the folder of a Hugging Face Space instead of starting the page.")
    ] = None,
) -> None:
    """Try models in a page in the browser.

    Photos stay on this machine, and nothing is sent elsewhere without --share. Needs the extra 'demo'.
    """
    if space is not None:
        refuse_idle(
            "is for the page on this machine, and --space writes a folder; leave one of them out",
            "host",
            "port",
            "auth",
            "share",
            "browser",
            "zoo",
        )
    models = model or [DEFAULT_MODEL]
    for name in models:
        check_name(name)
    user, _, password = (auth or "").partition(":")
    if auth is not None and not (user and password):
        raise ValueError("--auth takes USER:PASSWORD")
    say("Loading Gradio and PyTorch", err)
    try:
        from ..demo import app as page
        from ..demo import space as spaces
    except ModuleNotFoundError as error:
        raise missing_extra("The demo", "demo", error) from None
    if space is not None:
        spaces.write_space(space, models)
        say(f"Wrote {space}. Publish it: hf upload --repo-type space YOU/NAME {space} .")
        return
    options: dict[str, Any] = {"server_name": host, "server_port": port, "share": share, "inbrowser": browser}
    if auth is not None:
        options["auth"] = (user, password)
    say(f"Loading {models[0]}", err)
    blocks = page.build(models, zoo=zoo)
    _, local, public = page.launch(blocks, prevent_thread_lock=True, **options)
    say(f"The page is at {local}" + (f" and {public}" if public else "") + "; Ctrl-C ends it")
    if (share or not is_loopback(host)) and auth is None:
        say("Whoever knows the address can use it; --auth asks for a password", err)
    try:
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)
