"""Work request lists read as a device's library reads them: the C structures, followed link by link."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator


class Entry(ctypes.Structure):
    """struct ibv_sge."""

    _fields_ = (("addr", ctypes.c_uint64), ("length", ctypes.c_uint32), ("lkey", ctypes.c_uint32))


class Request(ctypes.Structure):
    """struct ibv_send_wr, as far as RDMA operations use it."""

    _fields_ = (
        ("wr_id", ctypes.c_uint64),
        ("next", ctypes.c_void_p),
        ("sg_list", ctypes.c_void_p),
        ("num_sge", ctypes.c_int),
        ("opcode", ctypes.c_int),
        ("send_flags", ctypes.c_uint),
        ("imm_data", ctypes.c_uint8 * 4),
        ("remote_addr", ctypes.c_uint64),
        ("rkey", ctypes.c_uint32),
    )

    def entries(self) -> list[Entry]:
        """What it gathers from or scatters to."""
        return list((Entry * self.num_sge).from_address(self.sg_list))


def followed(first: int) -> Iterator[Request]:
    """The requests of the list that begins at that address."""
    address: int | None = first
    while address:
        request = Request.from_address(address)
        yield request
        address = request.next
