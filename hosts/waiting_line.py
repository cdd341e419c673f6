"""A line in front of something scarce: served in the order of asking, and nobody is passed by."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class WaitingLine(Generic[_T]):
    """Who is at its head is tried again whenever something has been given back (`serve`)."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], _T | None], asyncio.Future[_T]]] = deque()

    async def take(self, attempt: Callable[[], _T | None], give_back: Callable[[_T], None]) -> _T:
        """What ``attempt`` takes, once it is at the head and there is enough (None: not yet).

        What is granted to one who was cancelled meanwhile goes to ``give_back``, which serves the line.
        """
        granted: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._waiting.append((attempt, granted))
        self.serve()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                give_back(granted.result())
            else:
                self._waiting.remove((attempt, granted))
                self.serve()
            raise

    def serve(self) -> None:
        """Give to the head as long as there is enough for it."""
        while self._waiting:
            attempt, granted = self._waiting[0]
            if granted.cancelled():
                return  # its owner is about to take it out of the line, and to call this again
            taken = attempt()
            if taken is None:
                return
            self._waiting.popleft()
            granted.set_result(taken)
