"""An operation as NIXL's rows of descriptors, in chunks of which a few are under way at once."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hosts.nixl_agent import Rows
from hosts.transport.plan import Integers, Shape, Side, plan

CHUNK_BYTES = 4 * 1024 * 1024
"""NIXL tells only that all of a transfer is done. So little is one, so that a slow peer is seen to make
progress, and so that polling, which moves all there is to move, returns soon."""
CHUNK_ROWS = 1024


class Chunk(NamedTuple):
    """What is posted in one call: rows of both sides, pair by pair of equal length."""

    local: Rows
    remote: Rows
    nbytes: int


def chunks(local: Side, local_device: int, remote: Side, remote_device: int) -> list[Chunk]:
    """The operation, in the order of its bytes. Both sides have equal ``nbytes``, at least 1."""
    whole = plan(local, remote, max_entries=1, max_bytes=CHUNK_BYTES)
    lengths = whole.shape.lengths
    here, there = _rows(whole.local, lengths, local_device), _rows(whole.remote, lengths, remote_device)
    return [
        Chunk(here[first:end], there[first:end], int(here[first:end, 1].sum()))
        for first, end in pairwise(_bounds(whole.shape))
    ]


def _bounds(shape: Shape) -> list[int]:
    """First row of every chunk, and the number of rows."""
    number, lengths = len(shape.remote), shape.lengths
    if isinstance(lengths, int):
        return [*range(0, number, min(CHUNK_ROWS, CHUNK_BYTES // lengths)), number]
    before = np.cumsum(lengths) - lengths
    begins = np.diff(before // CHUNK_BYTES, prepend=-1) | np.diff(np.arange(number) // CHUNK_ROWS, prepend=-1)
    return [*np.flatnonzero(begins), number]


def _rows(addresses: Integers, lengths: Integers | int, device: int) -> Rows:
    filled = np.empty((len(addresses), 3), np.uint64)
    filled[:, 0], filled[:, 1], filled[:, 2] = addresses, lengths, device
    return filled
