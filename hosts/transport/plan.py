"""An operation as runs of bytes that are contiguous on both sides, for devices and libraries that take
those."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hosts.transport.base import Strided

Integers = npt.NDArray[np.int64]

MAX_MESSAGE_BYTES = 1 << 30
"""Half of what an InfiniBand message may have, and within the u32 of an entry's length."""


class Side(NamedTuple):
    """One side of an operation: ``base`` is the address of its region's first byte."""

    base: int
    at: Strided


class Plan(NamedTuple):
    """An operation as requests, in the order of its bytes: request i covers entries first[i] to first[i + 1].

    ``local``, ``lengths``: [entries]; ``remote``: [requests]; ``first``: [requests + 1]. Where every request
    has one entry, ``first`` is None; where all lengths are equal, ``lengths`` is that one.
    """

    local: Integers
    lengths: Integers | int
    remote: Integers
    first: Integers | None

    def bytes_before(self, request: int) -> int:
        """Bytes of the operation that come before a request's."""
        entry = request if self.first is None else int(self.first[request])
        if isinstance(self.lengths, int):
            return entry * self.lengths
        return int(self.lengths[:entry].sum())


def plan(local: Side, remote: Side, max_entries: int) -> Plan:
    """The operation in as few requests as possible. Both sides have equal ``nbytes``, at least 1.

    A request covers one run of remote bytes, and gathers from or scatters to at most ``max_entries`` local
    runs.
    """
    runs = _run_bytes(local.at), _run_bytes(remote.at)
    step = min(runs)
    nbytes = local.at.nbytes
    if max(runs) % step == 0 and nbytes % step == 0:  # equal pieces on both sides, or one side in one run
        positions: Integers = np.arange(0, nbytes, step, dtype=np.int64)
        lengths: Integers | int = step
    else:
        positions = np.unique(np.concatenate([np.arange(0, nbytes, run, dtype=np.int64) for run in runs]))
        lengths = np.diff(positions, append=nbytes)
    first = None
    if step < runs[1] and max_entries > 1:
        first = _first_entries(positions // runs[1], max_entries)
    starts = positions if first is None else positions[first[:-1]]
    return Plan(_addresses(local, positions), lengths, _addresses(remote, starts), first)


def _run_bytes(at: Strided) -> int:
    return min(at.nbytes if at.contiguous else at.length, MAX_MESSAGE_BYTES)


def _addresses(side: Side, positions: Integers) -> Integers:
    at, begin = side.at, side.base + side.at.offset
    if at.contiguous:
        return positions + begin
    piece, within = np.divmod(positions, at.length)
    return piece * at.stride + within + begin


def _first_entries(run: Integers, max_entries: int) -> Integers:
    """First entry of each request, and the number of entries: a new request with each remote run, and in it
    after every ``max_entries``. ``run``: [entries], ascending."""
    run_begins = np.flatnonzero(np.diff(run, prepend=-1))
    in_run = np.arange(len(run)) - np.repeat(run_begins, np.diff(run_begins, append=len(run)))
    return np.append(np.flatnonzero(in_run % max_entries == 0), len(run))
