"""Ctrl-C and SIGTERM during a run: one interrupt, however it was sent; a later one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130
_SAME_S = 1.0
"""timeout(1) and batch systems signal a command and then its process group: twice at once."""


class InterruptedRunError(Exception):
    """Ctrl-C or SIGTERM during a run: exit code 130."""


def install() -> None:
    """Let SIGTERM (timeout(1), a batch system) end a run as Ctrl-C does, whoever handles that at the moment.

    In the background of a script, SIGINT starts out ignored.
    """
    last_at = -_SAME_S

    def on_terminate(_: int, frame: FrameType | None) -> None:
        nonlocal last_at
        now_at = time.monotonic()
        if now_at - last_at >= _SAME_S:
            last_at = now_at
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, on_terminate)


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Inside an event loop, whose own handler cancels what runs in it: hand that one interrupt.

    What follows it at once is the same; a later one ends the process there and then, as kill -9 would. To
    raise it inside the loop instead could strike anything, the loop's own book-keeping included.
    """
    handler = signal.getsignal(signal.SIGINT)
    first_at: float | None = None

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        now_at = time.monotonic()
        if first_at is None:
            first_at = now_at
            if callable(handler):
                handler(number, frame)
        elif now_at - first_at >= _SAME_S:
            print("dualpath: interrupted again; 'dualpath cleanup' removes what is left", file=sys.stderr)  # noqa: T201
            os._exit(EXIT_INTERRUPTED)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
