"""The bearer token of a server: where it comes from, and the check of a request's."""

import hmac
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import HTTPException, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

VARIABLE = "PSPNET_ZOO_SERVE_TOKEN"
"""The environment variable with the token."""
MIN_LENGTH = 16
"""Fewest characters of a token, so that nobody guesses it."""
_HEADER = HTTPBearer(auto_error=False, description="The token that the server was started with, if it has one.")
_GIVEN = Security(_HEADER)


def find_token(file: Path | None, *, none: bool, local: bool) -> str | None:
    """The token that requests must carry; None for no token. No message contains it.

    Args:
        file: A file that holds it; None for the environment variable `VARIABLE`, if that is set.
        none: Whether the user has asked for a server without a token.
        local: Whether only this machine reaches the server.

    Raises:
        ValueError: If tokens contradict each other, one is too short, or one is missing.
        OSError: If the file cannot be read.
    """
    value = os.environ.get(VARIABLE)
    if (value is not None) + (file is not None) + none > 1:
        raise ValueError(f"A token was given in two ways, or with --no-token; use one of {VARIABLE}, --token-file and --no-token")
    try:
        token = file.read_text(encoding="utf-8").strip() if file is not None else value
    except UnicodeDecodeError:
        raise ValueError(f"'{file}' is not text in UTF-8; save the token as plain text") from None
    if token is None:
        if not (none or local):
            raise ValueError(
                "Other machines can reach this address, so requests need a token: set one by "
                f"{VARIABLE} or --token-file, or let everybody in by --no-token"
            )
        return None
    if len(token) < MIN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"The token must have {MIN_LENGTH} or more ASCII characters without spaces. Make one: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def bearer_check(token: str | None) -> Callable[..., Awaitable[None]]:
    """A dependency of FastAPI that refuses requests without the token, 401; None lets all in."""

    async def check(given: HTTPAuthorizationCredentials | None = _GIVEN) -> None:
        if token is not None and (given is None or not hmac.compare_digest(given.credentials.encode(), token.encode())):
            text = "This server asks for a token: send the header Authorization: Bearer TOKEN."
            raise HTTPException(401, text, {"WWW-Authenticate": "Bearer"})

    return check
