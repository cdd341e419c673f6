"""Run-length form of block ids: what files and messages carry instead of long id lists."""

from __future__ import annotations

from collections.abc import Iterable

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
