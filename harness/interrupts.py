"""Ctrl-C and SIGTERM during a run: one interrupt, however it was sent; a later one forces the end."""

from __future__ import annotations

import signal
import time
from types import FrameType

_SAME_S = 1.0
"""timeout(1) and batch systems signal a command and then its process group: twice at once."""


class Interrupts:
    """SIGTERM ends a run as Ctrl-C does, whoever handles that at the moment."""

    def __init__(self) -> None:
        self._last_at = -_SAME_S

    def install(self) -> None:
        """In the background of a script, SIGINT starts out ignored."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, self._on_terminate)

    def _on_terminate(self, _: int, frame: FrameType | None) -> None:
        now_at = time.monotonic()
        if now_at - self._last_at >= _SAME_S:
            self._last_at = now_at
            signal.raise_signal(signal.SIGINT)
