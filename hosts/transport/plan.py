"""An operation as runs of bytes that are contiguous on both sides, for devices and libraries that take
those."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hosts.transport.base import Strided

Integers = npt.NDArray[np.int64]

MAX_MESSAGE_BYTES = 1 << 30
"""Half of what an InfiniBand message may have, and within the u32 of an entry's length."""
_SHAPES_KEPT = 64
"""More than the turns that a host has under way; each is some kilobytes (8 bytes a descriptor and side)."""


class Side(NamedTuple):
    """One side of an operation: ``base`` is the address of its region's first byte."""

    base: int
    at: Strided


class Shape(NamedTuple):
    """Requests in the order of their bytes, relative to where either side begins.

    Request i covers entries first[i] to first[i + 1]. ``local``, ``lengths``: [entries]; ``remote``:
    [requests]; ``first``: [requests + 1]. Where every request has one entry, ``first`` is None; where all
    lengths are equal, ``lengths`` is that one. Shared by all operations of the same shape: not to be changed.
    """

    local: Integers
    lengths: Integers | int
    remote: Integers
    first: Integers | None


class Plan(NamedTuple):
    """An operation as requests: a shape, and the addresses where the two sides begin.

    The layers of a turn differ only in the latter, so what they have in common is made once.
    """

    shape: Shape
    local_begin: int
    remote_begin: int

    @property
    def requests(self) -> int:
        """How many there are."""
        return len(self.shape.remote)

    @property
    def local(self) -> Integers:
        """Addresses: [entries]."""
        return self.shape.local + self.local_begin

    @property
    def remote(self) -> Integers:
        """Addresses: [requests]."""
        return self.shape.remote + self.remote_begin

    def bytes_before(self, request: int) -> int:
        """Bytes of the operation that come before a request's."""
        shape = self.shape
        entry = request if shape.first is None else int(shape.first[request])
        return entry * shape.lengths if isinstance(shape.lengths, int) else int(shape.lengths[:entry].sum())


class _Runs(NamedTuple):
    """``number`` runs of ``run`` contiguous bytes, or of other units, beginning ``stride`` apart."""

    run: int
    number: int
    stride: int

    def cuts(self, step: int) -> Integers:
        """Where pieces begin when each run is cut into pieces of ``step``, its last one maybe shorter."""
        begins = np.arange(self.number, dtype=np.int64) * self.stride
        return np.add.outer(begins, np.arange(0, self.run, step, dtype=np.int64)).reshape(-1)


def plan(local: Side, remote: Side, max_entries: int, max_bytes: int = MAX_MESSAGE_BYTES) -> Plan:
    """The operation in as few requests as possible. Both sides have equal ``nbytes``, at least 1.

    A request covers one run of remote bytes, at most ``max_bytes`` of it, and gathers from or scatters to at
    most ``max_entries`` local runs.
    """
    shape = _shape(_runs(local.at), _runs(remote.at), max_entries, max_bytes)
    return Plan(shape, local.base + local.at.offset, remote.base + remote.at.offset)


def _runs(at: Strided) -> _Runs:
    return _Runs(at.nbytes, 1, 0) if at.contiguous else _Runs(at.length, at.count, at.stride)


@lru_cache(maxsize=_SHAPES_KEPT)
def _shape(here: _Runs, there: _Runs, max_entries: int, max_bytes: int) -> Shape:
    step = min(here.run, there.run, max_bytes)
    if here.run % step or there.run % step:
        return _uneven(here, there, max_entries, max_bytes)
    entries_a_run = there.run // step
    entries_a_request = min(entries_a_run, max_entries, max_bytes // step)
    local = here.cuts(step)
    if entries_a_request == 1:
        return Shape(local, step, there.cuts(step), None)
    in_entries = _Runs(entries_a_run, there.number, entries_a_run)
    first = np.append(in_entries.cuts(entries_a_request), len(local))
    return Shape(local, step, there.cuts(entries_a_request * step), first)


def _uneven(here: _Runs, there: _Runs, max_entries: int, max_bytes: int) -> Shape:
    """Pieces of different lengths: the two sides' runs end at different bytes, or a run is too long for a
    message and its rest is shorter."""
    here_cuts, there_cuts = (_Runs(runs.run, runs.number, runs.run).cuts(max_bytes) for runs in (here, there))
    positions = np.union1d(here_cuts, there_cuts)
    lengths = np.diff(positions, append=here.run * here.number)
    first = None
    if max_entries > 1 and len(there_cuts) < len(positions):
        first = _first_entries(np.searchsorted(there_cuts, positions, side="right"), max_entries)
    begins = positions if first is None else positions[first[:-1]]
    return Shape(_placed(here, positions), lengths, _placed(there, begins), first)


def _placed(runs: _Runs, positions: Integers) -> Integers:
    """Where bytes lie that come at these positions of the operation."""
    run, within = np.divmod(positions, runs.run)
    return run * runs.stride + within


def _first_entries(message: Integers, max_entries: int) -> Integers:
    """First entry of each request, and the number of entries: a new request with each message, and in it
    after every ``max_entries``. ``message``: [entries], ascending from 1."""
    begins = np.flatnonzero(np.diff(message, prepend=0))
    within = np.arange(len(message)) - np.repeat(begins, np.diff(begins, append=len(message)))
    return np.append(np.flatnonzero(within % max_entries == 0), len(message))
