"""Stopping: the first Ctrl-C lets what is being measured end, the second one stops at once."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


class Stop:
    """Whether the user has asked to stop."""

    asked = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if so: called where nothing is half done."""
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def heeding() -> Iterator[Stop]:
    """In the block a Ctrl-C is noted, and left to whoever asks; a second one raises KeyboardInterrupt wherever it is.

    Where somebody else handles it, or in a thread that cannot, it stays as it was.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log.warning("stopping after what is being measured now; Ctrl-C again stops at once.")

    ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
