"""Send work requests in bulk: strided operations as columns of ``ibv_send_wr`` and ``ibv_sge`` arrays.

A turn of the paper's largest model is 61 layers of some 500 Layer Blocks, a work request each. Made one by
one as Python objects they would cost many times the transfer (paper 5.2: about 1 us to post one write even
in C); as columns that numpy fills and the device's library reads in place, a few nanoseconds each.

The layouts are those of <infiniband/verbs.h> on 64-bit machines, which its inline functions make part of the
library's binary interface. Addresses are signed here, as in plans, so that they are copied and not converted.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from hosts.transport.plan import Integers, Plan, Shape

_SEND_WR = np.dtype(
    {
        "names": [
            "wr_id", "next", "sg_list", "num_sge", "opcode", "send_flags", "imm_data", "remote_addr", "rkey",
        ],
        "formats": ["<u8", "<i8", "<i8", "<i4", "<i4", "<u4", ">u4", "<i8", "<u4"],
        "offsets": [0, 8, 16, 24, 28, 32, 36, 40, 48],
        "itemsize": 128,
    }
)  # fmt: skip
_SGE = np.dtype([("addr", "<i8"), ("length", "<u4"), ("lkey", "<u4")])


class Opcode(IntEnum):
    """``enum ibv_wr_opcode``."""

    WRITE = 0
    WRITE_WITH_IMMEDIATE = 1
    READ = 4


SIGNALED = 1 << 1
INLINE = 1 << 3
"""``enum ibv_send_flags``."""


class _Alike:
    """A column that mostly holds one value from list to list: written only where it does not yet."""

    def __init__(self, column: npt.NDArray[Any]) -> None:
        self._column = column
        self._value: int | None = None
        self._filled = 0

    def hold(self, value: int, count: int) -> None:
        """The first ``count`` rows hold ``value``."""
        if value != self._value:
            self._value, self._filled = value, 0
        if count > self._filled:
            self._column[self._filled : count] = value
            self._filled = count

    def take(self, values: Integers) -> None:
        """The first rows hold ``values``."""
        self._column[: len(values)] = values
        self._value = None


class SendList:
    """Room for ``capacity`` linked work requests of up to ``max_entries`` entries each.

    A request's id is its position. What never changes is written once, `load` fills what differs from the
    list before. ibv_post_send(3) takes a copy, so a list that was posted can be loaded again.
    """

    def __init__(self, capacity: int, max_entries: int) -> None:
        self.capacity, self.max_entries = capacity, max_entries
        requests, entries = np.zeros(capacity, _SEND_WR), np.zeros(capacity * max_entries, _SGE)
        # A view of a column costs more to make than to fill; the views keep the arrays alive.
        self._next, self._flags = requests["next"], requests["send_flags"]
        self._sg_list, self._num_sge = requests["sg_list"], requests["num_sge"]
        self._remote_address, self._immediate = requests["remote_addr"], requests["imm_data"]
        self._opcode, self._rkey = _Alike(requests["opcode"]), _Alike(requests["rkey"])
        self._local_address = entries["addr"]
        self._length, self._lkey = _Alike(entries["length"]), _Alike(entries["lkey"])
        self.address: int = requests.ctypes.data
        self._entries_at: int = entries.ctypes.data
        positions = np.arange(capacity)
        self._successors = self.address + _SEND_WR.itemsize * (positions + 1)
        self._one_entry_each = self._entries_at + _SGE.itemsize * positions
        requests["wr_id"] = positions
        self._next[:] = self._successors
        self._sg_list[:] = self._one_entry_each
        self._num_sge[:] = 1
        self._grouped = False
        self._shape: Shape | None = None
        self._part = (0, 0)
        self._ending = (capacity - 1, 0)

    def load(
        self,
        opcode: Opcode,
        planned: Plan,
        begin: int,
        end: int,
        *,
        lkey: int,
        rkey: int,
        immediate: int | None = None,
        inline: bool = False,
    ) -> None:
        """Requests ``begin`` to ``end`` of a plan, at most ``capacity``, the last one signaled.

        ``immediate`` and ``inline`` (copied when it is posted) are of the last one.
        """
        if planned.shape is not self._shape or (begin, end) != self._part:
            self._lay_out(planned, begin, end)
        else:
            self._move(planned)
        self._lkey.hold(lkey, len(self._local_part))
        self._rkey.hold(rkey, end - begin)
        self._opcode.hold(opcode, end - begin)
        self._end_with(end - begin - 1, SIGNALED | INLINE if inline else SIGNALED)
        if immediate is not None:
            self._immediate[end - begin - 1] = immediate

    def _lay_out(self, planned: Plan, begin: int, end: int) -> None:
        """Addresses, lengths and entries of the requests."""
        shape, first = planned.shape, planned.shape.first
        entries = slice(begin, end) if first is None else slice(int(first[begin]), int(first[end]))
        self._shape, self._part = shape, (begin, end)
        self._local_part = self._local_address[: entries.stop - entries.start]
        self._remote_part = self._remote_address[: end - begin]
        self._local_begin, self._remote_begin = planned.local_begin, planned.remote_begin
        np.add(shape.local[entries], planned.local_begin, out=self._local_part)
        np.add(shape.remote[begin:end], planned.remote_begin, out=self._remote_part)
        if isinstance(shape.lengths, int):
            self._length.hold(shape.lengths, len(self._local_part))
        else:
            self._length.take(shape.lengths[entries])
        if first is not None or self._grouped:
            self._group(None if first is None else first[begin : end + 1] - entries.start)

    def _move(self, planned: Plan) -> None:
        """The same requests again, of sides that begin elsewhere: the next layer of a turn."""
        if shift := planned.local_begin - self._local_begin:
            self._local_part += shift
            self._local_begin = planned.local_begin
        if shift := planned.remote_begin - self._remote_begin:
            self._remote_part += shift
            self._remote_begin = planned.remote_begin

    def _group(self, first: Integers | None) -> None:
        """Point every request to its entries: one each, or those from first[i] to first[i + 1]."""
        if self._grouped:
            self._sg_list[:] = self._one_entry_each
            self._num_sge[:] = 1
        if first is not None:
            self._sg_list[: len(first) - 1] = self._entries_at + _SGE.itemsize * first[:-1]
            self._num_sge[: len(first) - 1] = np.diff(first)
        self._grouped = first is not None

    def _end_with(self, last: int, flags: int) -> None:
        """Let the list end with request ``last``, and no longer where it ended before."""
        if self._ending == (last, flags):
            return
        before, _ = self._ending
        self._next[before] = self._successors[before]
        self._flags[before] = 0
        self._next[last] = 0
        self._flags[last] = flags
        self._ending = (last, flags)
