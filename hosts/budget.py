"""A budget that nobody overdraws and nobody is passed by: HBM for KV on one engine."""

from __future__ import annotations

import asyncio
from collections import deque


class BudgetError(Exception):
    """More was asked for than there ever is."""


class FifoBudget:
    """``capacity`` bytes; who waits for some gets them in the order of asking."""

    def __init__(self, capacity: float) -> None:
        self._capacity = self._free = capacity
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> float:
        """Bytes not taken."""
        return self._free

    async def take(self, amount: float) -> None:
        """``amount`` bytes, as soon as those who asked earlier have theirs; raises `BudgetError` at once
        for more than the capacity."""
        if amount > self._capacity:
            raise BudgetError(
                f"{amount:g} bytes of HBM asked of {self._capacity:g}: give the engines more, or shorten "
                "the contexts"
            )
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give_back(amount)
            else:
                self._waiting.remove((amount, granted))
                self._grant()
            raise

    def give_back(self, amount: float) -> None:
        """What was taken; those who wait are served."""
        self._free += amount
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            amount, granted = self._waiting[0]
            if granted.cancelled():
                return  # its owner is about to take it out of the queue, and to call this again
            self._waiting.popleft()
            self._free -= amount
            granted.set_result(None)
