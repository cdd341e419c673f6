"""The list that a device's library reads: followed through memory as it would, link by link."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.transport.base import Strided
from hosts.transport.plan import Side, plan
from hosts.transport.verbs.work_requests import INLINE, SIGNALED, Opcode, SendList

LOCAL, REMOTE, CAPACITY, ENTRIES = 1 << 40, 1 << 41, 32, 4


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
        return list((Entry * self.num_sge).from_address(self.sg_list))


def followed(send_list: SendList) -> Iterator[Request]:
    address: int | None = send_list.address
    while address:
        request = Request.from_address(address)
        yield request
        address = request.next


@settings(max_examples=200)
@given(data=st.data())
def test_lists_say_what_was_loaded_whatever_was_loaded_before(data: st.DataObject) -> None:
    send_list = SendList(CAPACITY, ENTRIES)
    for number in range(data.draw(st.integers(1, 5))):
        pieces, length = data.draw(st.integers(1, CAPACITY)), data.draw(st.integers(1, 9))
        spread, packed = Strided(5, length, pieces, length + 3), Strided(7, length * pieces)
        local, remote = data.draw(st.sampled_from([(spread, packed), (packed, spread), (spread, spread)]))
        planned = plan(Side(LOCAL, local), Side(REMOTE, remote), ENTRIES)
        begin = data.draw(st.integers(0, len(planned.remote) - 1))
        end = data.draw(st.integers(begin + 1, len(planned.remote)))
        opcode = data.draw(st.sampled_from([Opcode.READ, Opcode.WRITE]))
        send_list.load(opcode, planned, begin, end, lkey=number + 1, rkey=number + 2, wr_id=number << 32)

        requests = list(followed(send_list))
        first = planned.first if planned.first is not None else range(len(planned.local) + 1)
        assert len(requests) == end - begin
        assert [request.send_flags for request in requests] == [0] * (end - begin - 1) + [SIGNALED]
        for index, request in enumerate(requests, begin):
            assert (request.opcode, request.rkey) == (opcode, number + 2)
            assert (request.wr_id, request.remote_addr) == ((number << 32) + index, planned.remote[index])
            entries = request.entries()
            expected = planned.local[first[index] : first[index + 1]].tolist()
            assert [entry.addr for entry in entries] == expected
            assert {entry.lkey for entry in entries} == {number + 1}
            assert {entry.length for entry in entries} == {length}


def test_immediate_data_is_in_network_order_and_messages_may_be_inline() -> None:
    send_list = SendList(CAPACITY, ENTRIES)
    planned = plan(Side(LOCAL, Strided(0, 8)), Side(REMOTE, Strided(0, 8)), 1)
    send_list.load(
        Opcode.WRITE_WITH_IMMEDIATE,
        planned,
        0,
        1,
        lkey=1,
        rkey=2,
        wr_id=3,
        immediate=0x8000_0102,
        inline=True,
    )
    (request,) = followed(send_list)
    assert bytes(request.imm_data) == b"\x80\x00\x01\x02"
    assert request.send_flags == SIGNALED | INLINE
