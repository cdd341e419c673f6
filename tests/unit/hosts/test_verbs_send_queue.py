"""A send queue against a device that takes no more than it has room for, and completes lists in order."""

from __future__ import annotations

import asyncio
import errno
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verbs_lists import followed

from hosts.transport.base import Strided, TransferError
from hosts.transport.plan import Side, plan
from hosts.transport.verbs.send_queue import Operation, SendQueue
from hosts.transport.verbs.work_requests import SIGNALED, Opcode

DEPTH, ENTRIES = 16, 4


class Device:
    """Takes lists; ``complete`` completes the oldest."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.lists: deque[int] = deque()
        self.refuses = 0
        self.errors: list[str] = []
        self.queue = SendQueue("peer", DEPTH, ENTRIES, self.post, self.errors.append)

    def post(self, address: int) -> int:
        if self.refuses:
            return self.refuses
        requests = list(followed(address))
        assert [request.send_flags for request in requests] == [0] * (len(requests) - 1) + [SIGNALED]
        self.taken += [request.remote_addr for request in requests]
        self.lists.append(len(requests))
        assert sum(self.lists) <= DEPTH
        return 0

    def complete(self) -> None:
        self.lists.popleft()
        self.queue.completed()


def layer(pieces: int, at: int) -> Operation:
    """A write of so many descriptors to so many places from ``at`` on."""
    here, there = Side(1 << 40, Strided(0, 8 * pieces)), Side(at, Strided(0, 8, pieces, 16))
    return Operation("write", Opcode.WRITE, plan(here, there, ENTRIES), 1, 2, region=2, offset=0)


@settings(deadline=None)
@given(pieces=st.lists(st.integers(1, 50), min_size=1, max_size=8), completes=st.lists(st.booleans()))
def test_everything_is_posted_once_in_order_and_settles_with_its_last_request(
    pieces: list[int], completes: list[bool]
) -> None:
    async def run() -> None:
        device = Device()
        operations = [layer(count, number << 20) for number, count in enumerate(pieces, 1)]
        pauses = iter(completes)
        for operation in operations:
            device.queue.submit(operation)
            if device.lists and next(pauses, False):
                device.complete()
        while device.queue.busy:
            unsettled = [operation for operation in operations if not operation.settled.done()]
            assert device.queue.unsettled() == unsettled
            assert device.queue.backlog == sum(op.requests - op.completed for op in operations)
            device.complete()
        assert device.taken == [address for op in operations for address in op.plan.remote.tolist()]
        assert all(operation.settled.result() is None for operation in operations)
        assert (device.queue.backlog, device.queue.unsettled()) == (0, [])

    asyncio.run(run())


def test_an_abandoned_operation_posts_no_more_and_settles_when_the_device_is_done_with_it() -> None:
    async def run() -> None:
        device = Device()
        first, second = layer(DEPTH + 5, 1 << 20), layer(3, 2 << 20)
        device.queue.submit(first)
        device.queue.submit(second)
        device.queue.abandon(first)
        device.queue.abandon(second)
        assert second.settled.done()
        assert not first.settled.done()
        while device.queue.busy:
            device.complete()
        assert first.settled.done()
        assert device.taken == first.plan.remote[:DEPTH].tolist()
        assert device.queue.backlog == 0

    asyncio.run(run())


def test_a_failed_request_is_the_error_of_its_operation_at_its_bytes() -> None:
    async def run() -> None:
        device = Device()
        operation = layer(DEPTH, 1 << 20)
        device.queue.submit(operation)
        device.complete()
        device.queue.failed(3, "remote access error")
        device.queue.clear("flushed")
        with pytest.raises(TransferError, match="remote access error") as caught:
            operation.settled.result()
        assert (caught.value.region, caught.value.offset) == (2, (DEPTH // 2 + 3) * 8)

    asyncio.run(run())


def test_a_device_that_refuses_a_list_is_an_error() -> None:
    async def run() -> None:
        device = Device()
        device.refuses = errno.ENOMEM
        operation = layer(2, 1 << 20)
        device.queue.submit(operation)
        assert device.errors == ["posting failed: Cannot allocate memory"]
        device.queue.clear(device.errors[0])
        with pytest.raises(TransferError, match="Cannot allocate memory"):
            operation.settled.result()

    asyncio.run(run())
