"""Send work requests in bulk: strided operations as columns of ``ibv_send_wr`` and ``ibv_sge`` arrays.

A turn of the paper's largest model is 61 layers of some 500 Layer Blocks, a work request each. Made one by
one as Python objects they would cost many times the transfer (paper 5.2: about 1 us to post one write even
in C); as columns that numpy fills and the device's library reads in place, a few nanoseconds each.

The layouts are those of <infiniband/verbs.h> on 64-bit machines, which its inline functions make part of the
library's binary interface. ibv_post_send(3) takes a copy, so one set of arrays serves every queue pair.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from hosts.transport.plan import Integers, Plan

_SEND_WR = np.dtype(
    {
        "names": [
            "wr_id", "next", "sg_list", "num_sge", "opcode", "send_flags", "imm_data", "remote_addr", "rkey",
        ],
        "formats": ["<u8", "<u8", "<u8", "<i4", "<i4", "<u4", ">u4", "<u8", "<u4"],
        "offsets": [0, 8, 16, 24, 28, 32, 36, 40, 48],
        "itemsize": 128,
    }
)  # fmt: skip
_SGE = np.dtype([("addr", "<u8"), ("length", "<u4"), ("lkey", "<u4")])


class Opcode(IntEnum):
    """``enum ibv_wr_opcode``."""

    WRITE = 0
    WRITE_WITH_IMMEDIATE = 1
    READ = 4


SIGNALED = 1 << 1
INLINE = 1 << 3
"""``enum ibv_send_flags``."""


class SendList:
    """Room for ``capacity`` linked work requests of up to ``max_entries`` entries each.

    Links and pointers to entries are made once; `load` fills what differs and ends the list.
    """

    def __init__(self, capacity: int, max_entries: int) -> None:
        self.capacity, self.max_entries = capacity, max_entries
        self._requests = np.zeros(capacity, _SEND_WR)
        self._entries = np.zeros(capacity * max_entries, _SGE)
        # A view of a column costs more to make than to fill.
        self._columns = {name: self._requests[name] for name in _SEND_WR.names or ()}
        self._address, self._length, self._lkey = (self._entries[name] for name in ("addr", "length", "lkey"))
        self._indices = np.arange(capacity, dtype=np.uint64)
        self.address: int = self._requests.ctypes.data
        self._next = self.address + _SEND_WR.itemsize * (self._indices + np.uint64(1))
        self._one_entry_each = self._entries.ctypes.data + _SGE.itemsize * self._indices
        self._columns["next"][:] = self._next
        self._columns["sg_list"][:] = self._one_entry_each
        self._columns["num_sge"][:] = 1
        self._last = capacity - 1
        self._grouped = False
        self._alike: tuple[Opcode, int, int] | None = None

    def load(
        self,
        opcode: Opcode,
        planned: Plan,
        begin: int,
        end: int,
        *,
        lkey: int,
        rkey: int,
        wr_id: int,
        immediate: int | None = None,
        inline: bool = False,
    ) -> None:
        """Requests ``begin`` to ``end`` of a plan, at most ``capacity``, the last one signaled.

        Request i of the plan has the work request id ``wr_id`` + i. ``immediate`` goes with the last one;
        ``inline`` requests are copied when they are posted.
        """
        count, columns = end - begin, self._columns
        first = planned.first
        entries = slice(begin, end) if first is None else slice(first[begin], first[end])
        loaded = entries.stop - entries.start
        columns["remote_addr"][:count] = planned.remote[begin:end]
        self._address[:loaded] = planned.local[entries]
        lengths = planned.lengths
        self._length[:loaded] = lengths if isinstance(lengths, int) else lengths[entries]
        self._group(None if first is None else first[begin : end + 1] - entries.start)
        self._fill_alike(opcode, lkey, rkey)
        np.add(self._indices[:count], np.uint64(wr_id + begin), out=columns["wr_id"][:count])
        self._end_at(count - 1, SIGNALED | (INLINE if inline else 0))
        if immediate is not None:
            columns["imm_data"][count - 1] = immediate

    def _group(self, first: Integers | None) -> None:
        """Point every request to its entries: one each, or those from first[i] to first[i + 1]."""
        columns = self._columns
        if self._grouped:
            columns["sg_list"][:] = self._one_entry_each
            columns["num_sge"][:] = 1
        if first is not None:
            columns["sg_list"][: len(first) - 1] = self._entries.ctypes.data + _SGE.itemsize * first[:-1]
            columns["num_sge"][: len(first) - 1] = np.diff(first)
        self._grouped = first is not None

    def _fill_alike(self, opcode: Opcode, lkey: int, rkey: int) -> None:
        """What is the same in all requests of a list, and mostly in those of the next list, too."""
        if self._alike != (opcode, lkey, rkey):
            self._columns["opcode"][:] = opcode
            self._columns["rkey"][:] = rkey
            self._lkey[:] = lkey
            self._alike = (opcode, lkey, rkey)

    def _end_at(self, last: int, flags: int) -> None:
        """Let the list end with request ``last``, and no longer where it ended before."""
        columns, before = self._columns, self._last
        columns["next"][before] = self._next[before]
        columns["send_flags"][before] = 0
        columns["next"][last] = 0
        columns["send_flags"][last] = flags
        self._last = last
