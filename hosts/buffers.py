"""A host's KV buffer (the paper's PE or DE buffer, 4.1): one allocation, given out in contiguous parts."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hosts.config import PageKind
from hosts.memory import mapped
from hosts.waiting_line import WaitingLine


class ArenaError(Exception):
    """A buffer cannot be had, or was given back twice."""


class Allocation(NamedTuple):
    """``nbytes`` of an arena from byte ``offset``, which is a multiple of the arena's alignment."""

    offset: int
    nbytes: int


class BufferArena:
    """``buffer_bytes`` of page-aligned memory. Who waits for a part gets it in the order of asking.

    A large request is therefore never passed by small ones that would fit sooner. First fit, with
    neighbouring holes joined: as long as everything is freed again, it is one hole again.

    ``slack_bytes`` of memory are never given out on top of ``buffer_bytes``, but make up for holes too small
    for anyone: the buffer of an engine, which is paged, has none.
    """

    def __init__(
        self, buffer_bytes: int, alignment: int, slack_bytes: int = 0, pages: PageKind = "base"
    ) -> None:
        if buffer_bytes < 1 or alignment < 1 or alignment & (alignment - 1):
            raise ArenaError(
                f"a buffer of {buffer_bytes} bytes aligned to {alignment}: expected >= 1 and a power of two"
            )
        self._alignment = alignment
        self._capacity_bytes = self._rounded(buffer_bytes)
        memory_bytes = self._capacity_bytes + self._rounded(slack_bytes)
        memory = mapped(memory_bytes + alignment, pages)
        first = -memory.ctypes.data % alignment
        self.view: NDArray[np.uint8] = memory[first : first + memory_bytes]
        self._holes: list[Allocation] = [Allocation(0, memory_bytes)]
        self._held: dict[int, int] = {}
        self._line: WaitingLine[Allocation] = WaitingLine()

    @property
    def capacity_bytes(self) -> int:
        """``buffer_bytes``, rounded up to the alignment."""
        return self._capacity_bytes

    @property
    def free_bytes(self) -> int:
        """What is left of the capacity."""
        return self._capacity_bytes - sum(self._held.values())

    @property
    def holes(self) -> tuple[Allocation, ...]:
        """The memory not given out, ascending; no two parts touch."""
        return tuple(self._holes)

    async def allocate(self, nbytes: int) -> Allocation:
        """A contiguous part of ``nbytes``, as soon as those who asked earlier have theirs.

        Raises `ArenaError` at once for what could never be given.
        """
        if not 1 <= nbytes <= self._capacity_bytes:
            raise ArenaError(
                f"{nbytes} bytes asked of a buffer of {self._capacity_bytes}: expected 1 to that many; "
                "enlarge buffer_bytes or shorten the context"
            )
        return await self._line.take(lambda: self._take(nbytes), self.free)

    def free(self, allocation: Allocation) -> None:
        """Give ``allocation`` back; those who wait are served."""
        held_bytes = self._held.pop(allocation.offset, None)
        if held_bytes is None:
            raise ArenaError(f"{allocation} is not held: freed twice, or not of this arena")
        self._join(Allocation(allocation.offset, held_bytes))
        self._line.serve()

    def _take(self, nbytes: int) -> Allocation | None:
        wanted = self._rounded(nbytes)
        if wanted > self.free_bytes:
            return None
        for at, hole in enumerate(self._holes):
            if hole.nbytes >= wanted:
                rest = Allocation(hole.offset + wanted, hole.nbytes - wanted)
                self._holes[at : at + 1] = [rest] if rest.nbytes else []
                self._held[hole.offset] = wanted
                return Allocation(hole.offset, nbytes)
        return None

    def _join(self, hole: Allocation) -> None:
        at = bisect_left(self._holes, hole)
        first, last = hole.offset, hole.offset + hole.nbytes
        begin = end = at
        if at < len(self._holes) and self._holes[at].offset == last:
            last += self._holes[at].nbytes
            end = at + 1
        if at > 0 and sum(self._holes[at - 1]) == first:
            first = self._holes[at - 1].offset
            begin = at - 1
        self._holes[begin:end] = [Allocation(first, last - first)]

    def _rounded(self, nbytes: int) -> int:
        return -(-nbytes // self._alignment) * self._alignment
