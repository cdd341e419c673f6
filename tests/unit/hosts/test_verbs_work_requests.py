"""The list that a device's library reads: followed through memory as it would, link by link."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from verbs_lists import followed

from hosts.transport.base import Strided
from hosts.transport.plan import Side, plan
from hosts.transport.verbs.work_requests import INLINE, SIGNALED, Opcode, SendList

LOCAL, REMOTE, CAPACITY, ENTRIES = 1 << 40, 1 << 41, 32, 4


@settings(max_examples=200)
@given(data=st.data())
def test_lists_say_what_was_loaded_whatever_was_loaded_before(data: st.DataObject) -> None:
    send_list = SendList(CAPACITY, ENTRIES)
    for _ in range(data.draw(st.integers(1, 5))):
        # Few values, so that a list often holds already what it is loaded with.
        lkey, rkey = data.draw(st.integers(1, 2)), data.draw(st.integers(3, 4))
        pieces, length = (
            data.draw(st.sampled_from([1, 2, 7, CAPACITY])),
            data.draw(st.sampled_from([1, 8, 9])),
        )
        spread, packed = Strided(5, length, pieces, length + 3), Strided(7, length * pieces)
        uneven = Strided(11, 3, length * pieces // 3, 5) if length * pieces % 3 == 0 else packed
        shapes = [(spread, packed), (packed, spread), (spread, spread), (spread, uneven), (uneven, spread)]
        local, remote = data.draw(st.sampled_from(shapes))
        shifts = data.draw(st.tuples(st.sampled_from([0, 64]), st.sampled_from([0, 64])))
        planned = plan(Side(LOCAL + shifts[0], local), Side(REMOTE + shifts[1], remote), ENTRIES)
        begin = data.draw(st.sampled_from([0, planned.requests // 2]))
        end = data.draw(st.sampled_from([begin + 1, min(begin + CAPACITY, planned.requests)]))
        opcode = data.draw(st.sampled_from([Opcode.READ, Opcode.WRITE]))
        send_list.load(opcode, planned, begin, end, lkey=lkey, rkey=rkey)

        requests = list(followed(send_list.address))
        first = planned.shape.first if planned.shape.first is not None else range(len(planned.local) + 1)
        assert len(requests) == end - begin
        assert [request.send_flags for request in requests] == [0] * (end - begin - 1) + [SIGNALED]
        lengths = np.broadcast_to(planned.shape.lengths, len(planned.local))
        for index, request in enumerate(requests, begin):
            assert (request.opcode, request.rkey) == (opcode, rkey)
            assert (request.wr_id, request.remote_addr) == (index - begin, planned.remote[index])
            entries = request.entries()
            expected = slice(first[index], first[index + 1])
            assert [entry.addr for entry in entries] == planned.local[expected].tolist()
            assert [entry.length for entry in entries] == lengths[expected].tolist()
            assert {entry.lkey for entry in entries} == {lkey}


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
        immediate=0x8000_0102,
        inline=True,
    )
    (request,) = followed(send_list.address)
    assert bytes(request.imm_data) == b"\x80\x00\x01\x02"
    assert request.send_flags == SIGNALED | INLINE
