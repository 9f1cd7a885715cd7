"""Errors of the Hub's client, as messages that say what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager

from .download import PASSING_STATUSES
from .files import CONFIG_FILE, WEIGHTS_FILE, WeightsError


def is_passing(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    from huggingface_hub.errors import HfHubHTTPError

    if type(error) is RuntimeError and error.__cause__:
        return is_passing(error.__cause__)  # the client wraps what fails in an upload
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING_STATUSES
    # the client raises a plain OSError for a file of the wrong size
    return _is_transport(error) or (type(error) is OSError and error.errno is None)


def is_unanswered(error: BaseException) -> bool:
    """Whether a request failed before the Hub answered it."""
    from huggingface_hub.errors import HfHubHTTPError

    return _is_transport(error) and not isinstance(error, HfHubHTTPError)


def _is_transport(error: BaseException) -> bool:
    # huggingface_hub 1 lets errors of httpx through, 2 those of httpx2
    return any(base.__module__.partition(".")[0] in ("httpx", "httpx2") for base in type(error).__mro__)


@contextmanager
def explained(what: str, token: str | bool | None) -> Iterator[None]:
    """Turn whatever the Hub's client raises into a WeightsError.

    Args:
        what: The file or repository, for the message.
        token: Never in the message, also if a server repeats it.

    Raises:
        WeightsError: For any of the client's errors; a WeightsError passes.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
        return
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, RuntimeError, HfHubHTTPError)) and not _is_transport(error):
            raise
        text = _explanation(error, what, constants.ENDPOINT)
    for secret in (token, get_token()):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    raise WeightsError(text) from None


def _explanation(error: Exception, what: str, endpoint: str) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # the Hub did answer
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what failed in an upload
    log_in = "log in with 'hf auth login' or set HF_TOKEN"
    # the first that fits; a gated repository is "not found" too, and a local entry is an entry
    cases: tuple[tuple[type[Exception], str], ...] = (
        (errors.GatedRepoError, f"is gated: accept its terms on {endpoint} with your account, then {log_in}"),
        (errors.RepositoryNotFoundError, f"is not on {endpoint}, nor is it a folder here; if it is private, {log_in} as a member"),
        (errors.RevisionNotFoundError, "is not there: the repository has no such revision. Leave it out for the newest"),
        (
            errors.LocalEntryNotFoundError,
            f"is not in the cache, and {endpoint} was not asked or not reached. Load it once with the network; see HF_HUB_OFFLINE",
        ),
        (
            errors.EntryNotFoundError,
            f"is not there: a checkpoint has {CONFIG_FILE} and {WEIGHTS_FILE}; other formats, such as pickles, are not supported",
        ),
        (errors.OfflineModeIsEnabled, "needs the network, but HF_HUB_OFFLINE is set"),
        (errors.HFValidationError, "is no repository of the Hub: write 'organisation/name'"),
    )
    for kind, text in cases:
        if isinstance(error, kind):
            return f"{what} {text}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        hint = f"{log_in}, with a token that may do this" if status in (401, 403) else "try again later"
        return f"{what}: {endpoint} answered {status} ({_first_line(error)}). Next: {hint}"
    return f"{what}: {endpoint} failed ({type(error).__name__}: {_first_line(error)}). Try again, or check the network"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"
