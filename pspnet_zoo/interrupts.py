"""Signals that arrive while PyTorch or numpy is imported."""

import signal
import threading
from types import FrameType

_IMPORTED_WHOLE = ("torch", "numpy")
_AGAIN_AFTER = 0.1  # seconds


def postpone(number: int, frame: FrameType | None) -> bool:
    """Raise a signal again a little later if its exception would end an import of PyTorch or numpy halfway.

    There the exception is lost in C++, aborts the process, or leaves a module that cannot be imported any more.

    Args:
        number: The signal's.
        frame: Where it arrived, as given to its handler, which must return at once if the signal is postponed.

    Returns:
        Whether it is postponed.
    """
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load" and frame.f_locals["name"].partition(".")[0] in _IMPORTED_WHOLE:
            again = threading.Timer(_AGAIN_AFTER, _send, [number])
            again.daemon = True
            again.start()
            return True
        frame = frame.f_back
    return False


def _send(number: int) -> None:
    """Raise a signal so that the main thread wakes from a wait."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        signal.raise_signal(number)
