"""An operation as NIXL's rows of descriptors, in chunks of which a few are under way at once."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hosts.nixl_agent import MemoryKind, Rows
from hosts.transport.base import Strided
from hosts.transport.nixl.memory import Memory
from hosts.transport.plan import Integers, Shape, Side, plan

CHUNK_BYTES = 4 * 1024 * 1024
"""NIXL tells only that all of a transfer is done. No more than this is one, so that a slow peer is seen to
make progress, and so that polling, which moves all there is to move, returns soon."""
CHUNK_ROWS = 1024
_LAYOUTS_KEPT = 64


class Chunk(NamedTuple):
    """What is posted in one call: rows of both sides, pair by pair of equal length."""

    local: Rows
    local_kind: MemoryKind
    remote: Rows
    remote_kind: MemoryKind
    nbytes: int


class _Layout(NamedTuple):
    """What operations of a shape have in common, as the layers of a turn do: rows relative to where either
    side begins, on device 0, and the chunks' first row, end and bytes. Shared: not to be changed."""

    local: Rows
    remote: Rows
    chunks: list[tuple[int, int, int]]


def chunks(
    local: Memory, local_at: Strided, remote: Memory, remote_at: Strided, chunk_bytes: int = CHUNK_BYTES
) -> list[Chunk]:
    """The operation, in the order of its bytes. Both sides have equal ``nbytes``, at least 1."""
    layout = _layout(_from_zero(local_at), _from_zero(remote_at), chunk_bytes)
    here = layout.local + np.array([local.address + local_at.offset, 0, local.device], np.uint64)
    there = layout.remote + np.array([remote.address + remote_at.offset, 0, remote.device], np.uint64)
    return [
        Chunk(here[first:end], local.kind, there[first:end], remote.kind, nbytes)
        for first, end, nbytes in layout.chunks
    ]


def _from_zero(at: Strided) -> Strided:
    return Strided(0, at.length, at.count, at.stride)


@lru_cache(maxsize=_LAYOUTS_KEPT)
def _layout(local: Strided, remote: Strided, chunk_bytes: int) -> _Layout:
    whole = plan(Side(0, local), Side(0, remote), max_entries=1, max_bytes=chunk_bytes)
    lengths = np.broadcast_to(whole.shape.lengths, whole.requests)
    return _Layout(
        _rows(whole.local, lengths),
        _rows(whole.remote, lengths),
        [
            (first, end, int(lengths[first:end].sum()))
            for first, end in pairwise(_bounds(whole.shape, chunk_bytes))
        ],
    )


def _bounds(shape: Shape, chunk_bytes: int) -> list[int]:
    """First row of every chunk, and the number of rows."""
    number, lengths = len(shape.remote), shape.lengths
    if isinstance(lengths, int):
        return [*range(0, number, min(CHUNK_ROWS, chunk_bytes // lengths)), number]
    before = np.cumsum(lengths) - lengths
    begins = np.diff(before // chunk_bytes, prepend=-1) | np.diff(np.arange(number) // CHUNK_ROWS, prepend=-1)
    return [*np.flatnonzero(begins).tolist(), number]


def _rows(addresses: Integers, lengths: Integers) -> Rows:
    return np.stack([addresses, lengths, np.zeros_like(addresses)], axis=1).astype(np.uint64)
