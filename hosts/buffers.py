"""The host-DRAM buffer of the paper (4.1): one allocation, handed out in contiguous pieces, FIFO."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class BufferTooSmallError(ValueError):
    """A request that could never be served, however long it waited."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """``nbytes`` bytes of the arena from ``offset`` on."""

    offset: int
    nbytes: int


class BufferArena:
    """First fit over one buffer. Who cannot be served waits, strictly in order, so nobody starves.

    ``view`` is the buffer; pages are touched only when used, and first fit reuses the low ones.
    """

    def __init__(self, nbytes: int, alignment: int = 4096) -> None:
        self.view: NDArray[np.uint8] = np.zeros(nbytes, np.uint8)
        self._alignment = alignment
        self._holes = [(0, nbytes)]  # (offset, bytes), ascending, never adjacent
        self._waiting: deque[tuple[int, asyncio.Future[Allocation]]] = deque()

    @property
    def free_bytes(self) -> int:
        """Bytes in all holes together."""
        return sum(size for _, size in self._holes)

    async def allocate(self, nbytes: int) -> Allocation:
        """Wait for ``nbytes`` contiguous bytes; raises BufferTooSmallError if there never will be."""
        needed = max(self._alignment, -(-nbytes // self._alignment) * self._alignment)
        if needed > self.view.nbytes:
            raise BufferTooSmallError(
                f"{nbytes} bytes asked of a buffer of {self.view.nbytes}; enlarge the host buffer"
            )
        if not self._waiting and (allocation := self._take(needed)) is not None:
            return allocation
        turn: asyncio.Future[Allocation] = asyncio.get_running_loop().create_future()
        self._waiting.append((needed, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.free(turn.result())  # served and cancelled in the same moment
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._serve_waiting()
            raise

    def free(self, allocation: Allocation) -> None:
        """Give a piece back; whoever waits first is served first."""
        self._holes.append((allocation.offset, allocation.nbytes))
        self._holes.sort()
        merged = [self._holes[0]]
        for offset, size in self._holes[1:]:
            last_offset, last_size = merged[-1]
            if last_offset + last_size > offset:
                raise ValueError(f"{allocation} was free already")
            if last_offset + last_size == offset:
                merged[-1] = (last_offset, last_size + size)
            else:
                merged.append((offset, size))
        self._holes = merged
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting:
            needed, turn = self._waiting[0]
            if not turn.done():
                allocation = self._take(needed)
                if allocation is None:
                    return
                turn.set_result(allocation)
            self._waiting.popleft()

    def _take(self, nbytes: int) -> Allocation | None:
        for i, (offset, size) in enumerate(self._holes):
            if size >= nbytes:
                rest = (offset + nbytes, size - nbytes)
                self._holes[i : i + 1] = [rest] if rest[1] else []
                return Allocation(offset, nbytes)
        return None
