"""Compact forms of block ids: runs, which files and messages carry instead of long id lists, and
prompts that share one array in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from workloads.trace import BlockIds


class BlockRange(msgspec.Struct, frozen=True, array_like=True):
    """``count`` consecutive block ids from ``first``."""

    first: int
    count: int


def to_ranges(ids: BlockIds) -> tuple[BlockRange, ...]:
    """Maximal runs of consecutive ids, in order; ``from_ranges`` restores ``ids`` exactly."""
    if not len(ids):
        return ()
    breaks = (np.nonzero(ids[1:] - ids[:-1] != 1)[0] + 1).tolist()
    return tuple(
        BlockRange(int(ids[begin]), end - begin)
        for begin, end in zip([0, *breaks], [*breaks, len(ids)], strict=True)
    )


def from_ranges(ranges: Iterable[BlockRange]) -> BlockIds:
    """The ids the ranges stand for, in order; shape [sum of counts]."""
    runs = [np.arange(r.first, r.first + r.count, dtype=np.int64) for r in ranges]
    return np.concatenate(runs) if runs else np.empty(0, dtype=np.int64)


def as_prefixes(prompts: Sequence[BlockIds]) -> list[BlockIds]:
    """The same prompts, each a read-only view of the next one's array where it is a prefix of it: a session
    that only grows costs its longest prompt's memory, not the sum over its turns."""
    shared: list[BlockIds] = []
    longest: BlockIds = np.empty(0, dtype=np.int64)
    for prompt in reversed(prompts):
        if not np.array_equal(longest[: len(prompt)], prompt):
            longest = prompt.copy()
            longest.setflags(write=False)
        shared.append(longest[: len(prompt)])
    return shared[::-1]
