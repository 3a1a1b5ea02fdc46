"""Ctrl-C and SIGTERM while a run trains: the first one asks it to stop, a second one ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Asked", "Stopped", "listen"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised where somebody asked a run to stop; its text says how to go on, ``signum`` which signal asked."""

    def __init__(self, text: str, signum: int) -> None:
        super().__init__(text)
        self.signum = signum


class Asked:
    """Whether somebody asked to stop.

    signum: the signal that did, None for none; waits: whether the step in work is finished first: if not, the signal
    raises :class:`Stopped` where it arrives.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.waits = False

    def stop(self, text: str) -> Stopped:
        """The exception that ends the run."""
        return Stopped(text, self.signum or signal.SIGINT)


@contextmanager
def listen() -> Iterator[Asked]:
    """Within this context the first SIGINT or SIGTERM is noted in the result; a second one ends the process at once, as
    the signal does by itself. A signal that the process was started to ignore stays ignored, and outside the main
    thread, where Python delivers none, nothing changes.

    >>> with listen() as asked:
    ...     asked.waits = True
    ...     signal.raise_signal(signal.SIGTERM)
    ...     asked.signum == signal.SIGTERM
    True
    """
    asked = Asked()

    def note(signum: int, frame: FrameType | None) -> None:
        if asked.signum is not None:
            _leave(signum)
        asked.signum = signum
        if not asked.waits:
            raise asked.stop("stopped.")

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {one: signal.getsignal(one) for one in SIGNALS}
        before = {one: was for one, was in before.items() if was not in (signal.SIG_IGN, None)}
    try:
        for one in before:
            signal.signal(one, note)
        yield asked
    finally:
        for one, was in before.items():
            signal.signal(one, was)


def _leave(signum: int) -> None:
    """Ends the process by the signal itself, as its caller expects."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # a progress bar had hidden the cursor
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
