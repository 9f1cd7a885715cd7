"""The command `pspnet-zoo demo`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..extras import missing_extra
from .terminal import DEFAULT_MODEL, check_name, say

_PUBLIC = ("0.0.0.0", "::")


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Offered first: a name of the zoo, a folder, an exported file, or org/repo. Repeat it for more."),
    ] = None,
    zoo: Annotated[bool, typer.Option(help="Offer the zoo's other checkpoints, fetched when they are chosen.")] = True,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, show_default="the first free one from 7860", help="Port to listen on.")
    ] = None,
    auth: Annotated[
        str | None, typer.Option(metavar="USER:PASSWORD", envvar="PSPNET_ZOO_DEMO_AUTH", help="Ask visitors for these.")
    ] = None,
    fraction: Annotated[bool, typer.Option("--share", help="A public address for a week, through Gradio's servers.")] = False,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    space: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a Hugging Face Space into this folder instead, and end.")
    ] = None,
) -> None:
    """Try networks in a page on this machine.

    Photos stay on this machine, and nothing is sent anywhere without --share. Needs the extra 'demo' of the package.
    """
    models = model or [DEFAULT_MODEL]
    for name in models:
        check_name(name)
    user, _, password = (auth or "").partition(":")
    if auth is not None and not (user and password):
        raise ValueError("--auth takes USER:PASSWORD")
    try:
        from ..demo import app as page
        from ..demo import space as spaces
    except ModuleNotFoundError as error:
        raise missing_extra("The demo", "demo", error) from None
    if space is not None:
        spaces.write(space, models)
        say(f"Wrote {space}. Publish it: hf upload --repo-type space YOU/NAME {space} .")
        return
    options: dict[str, Any] = {"server_name": host, "server_port": port, "share": fraction, "inbrowser": browser}
    if auth is not None:
        options["auth"] = (user, password)
    blocks = page.build(models, zoo=zoo)
    _, local, public = page.launch(blocks, prevent_thread_lock=True, **options)
    say(f"The page is at {local}" + (f" and {public}" if public else "") + "; Ctrl-C ends it")
    if (fraction or host in _PUBLIC) and auth is None:
        say("Whoever knows the address can use it; --auth asks for a password")
    blocks.block_thread()
