"""A clock tick finer than the event loop's own timers, for libraries that have to be polled.

asyncio rounds its timers up to the whole milliseconds of epoll_wait(2); a timer with a file descriptor
(timerfd_create(2)) wakes it on time.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from contextlib import suppress

_CLOCK_MONOTONIC = 1
_EXPIRATIONS_BYTES = 8


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Ticks:
    """Calls ``due`` every ``interval_s`` from `start` on, until it says that nothing more is outstanding."""

    def __init__(self, interval_s: float, due: Callable[[], bool]) -> None:
        seconds, fraction = divmod(interval_s, 1)
        self._interval = _TimeSpec(int(seconds), round(fraction * 1e9))
        self._due = due
        self._loop = asyncio.get_running_loop()
        self._timer = _checked(_libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        self._running = False
        self._loop.add_reader(self._timer, self._on_tick)

    def start(self) -> None:
        """Something is outstanding. Again while ticking: no change."""
        if not self._running and self._timer >= 0:
            self._running = True
            self._set(self._interval)

    def close(self) -> None:
        """Tick no more."""
        if self._timer >= 0:
            self._loop.remove_reader(self._timer)
            os.close(self._timer)
            self._timer = -1

    def _on_tick(self) -> None:
        with suppress(BlockingIOError):  # stopped since it became readable
            os.read(self._timer, _EXPIRATIONS_BYTES)
        if self._running and not self._due() and self._timer >= 0:
            self._running = False
            self._set(_TimeSpec(0, 0))

    def _set(self, interval: _TimeSpec) -> None:
        spec = _TimerSpec(interval, interval)
        _checked(_libc.timerfd_settime(self._timer, 0, ctypes.byref(spec), None))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


_libc = ctypes.CDLL(None, use_errno=True)
