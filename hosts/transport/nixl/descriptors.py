"""An operation as NIXL's rows of descriptors, in chunks of which a few are under way at once."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hosts.nixl_agent import Rows
from hosts.transport.plan import Integers, Side, plan

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
    whole = plan(local, remote, max_entries=1)
    ours, theirs, lengths = _cut(whole.local, whole.remote, np.broadcast_to(whole.lengths, whole.local.shape))
    before = np.cumsum(lengths) - lengths
    begins = [
        np.diff(quota, prepend=-1) for quota in (before // CHUNK_BYTES, np.arange(len(lengths)) // CHUNK_ROWS)
    ]
    bounds = [*np.flatnonzero(begins[0] | begins[1]), len(lengths)]
    local_rows, remote_rows = _rows(ours, lengths, local_device), _rows(theirs, lengths, remote_device)
    return [
        Chunk(local_rows[first:end], remote_rows[first:end], int(lengths[first:end].sum()))
        for first, end in pairwise(bounds)
    ]


def _cut(local: Integers, remote: Integers, lengths: Integers) -> tuple[Integers, Integers, Integers]:
    """Pieces longer than a chunk in several."""
    parts = -(-lengths // CHUNK_BYTES)
    piece = np.repeat(np.arange(len(lengths)), parts)
    within = (np.arange(len(piece)) - np.repeat(np.cumsum(parts) - parts, parts)) * CHUNK_BYTES
    return local[piece] + within, remote[piece] + within, np.minimum(lengths[piece] - within, CHUNK_BYTES)


def _rows(addresses: Integers, lengths: Integers, device: int) -> Rows:
    filled = np.empty((len(addresses), 3), np.uint64)
    filled[:, 0], filled[:, 1], filled[:, 2] = addresses, lengths, device
    return filled
