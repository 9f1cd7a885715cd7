"""The signals that end a command, and those of them that arrive while a module is imported."""

import signal
import threading
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Windows has no SIGHUP."""
_PACKAGE = __name__.partition(".")[0]
_AGAIN_AFTER = 0.1  # seconds
_timers: list[threading.Timer] = []


def postpone(number: int, frame: FrameType | None) -> bool:
    """Raise a signal again a little later if this package is importing a module.

    An exception halfway through the import of PyTorch, numpy and others is lost in C++, aborts the process, comes out as
    another one, or leaves a module that cannot be imported any more.

    Args:
        number: The signal's.
        frame: Where it arrived, as given to its handler, which must return at once if the signal is postponed.

    Returns:
        Whether it is postponed.
    """
    imports = False
    while frame is not None:
        name = frame.f_globals.get("__name__", "").partition(".")[0]
        imports = imports or name == "importlib"
        if imports and name == _PACKAGE:
            again = threading.Timer(_AGAIN_AFTER, _send, [number])
            again.daemon = True
            again.start()
            _timers.append(again)
            return True
        frame = frame.f_back
    return False


def forget_postponed() -> None:
    """Raise no postponed signal any more: what it was to end has ended."""
    while _timers:
        _timers.pop().cancel()


def _send(number: int) -> None:
    """Raise a signal so that the main thread wakes from a wait."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        signal.raise_signal(number)
