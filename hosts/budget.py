"""A budget that nobody overdraws and nobody is passed by: HBM for KV on one engine."""

from __future__ import annotations

from hosts.waiting_line import WaitingLine


class BudgetError(Exception):
    """More was asked for than there ever is."""


class FifoBudget:
    """``capacity`` bytes; who waits for some gets them in the order of asking."""

    def __init__(self, capacity: float) -> None:
        self._capacity = self._free = capacity
        self._line: WaitingLine[float] = WaitingLine()

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
        await self._line.take(lambda: self._take(amount), self.give_back)

    def give_back(self, amount: float) -> None:
        """What was taken; those who wait are served."""
        self._free += amount
        self._line.serve()

    def _take(self, amount: float) -> float | None:
        if amount > self._free:
            return None
        self._free -= amount
        return amount
