"""The host's read queue: order, bounds, failures, cancellation."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.storage import ReadQueue, StorageError
from hosts.storage.memory import MemoryStorage


class GatedStorage(MemoryStorage):
    """Lets each read through when told to; notes what began, and what is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[tuple[str, int, int]] = []
        self.running = 0
        self.most_running = 0
        self.gate = asyncio.Semaphore(0)

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        self.began.append((key, offset, into.nbytes))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.acquire()
            await super().read_into(key, offset, into)
        finally:
            self.running -= 1

    def open(self, reads: int) -> None:
        for _ in range(reads):
            self.gate.release()


async def settle() -> None:
    """Let every task run until all of them wait."""
    for _ in range(20):
        await asyncio.sleep(0)


@given(
    requests=st.lists(st.lists(st.integers(0, 700), max_size=4), min_size=1, max_size=6),
    streams=st.integers(1, 5),
    chunk_bytes=st.integers(1, 300),
)
def test_every_byte_arrives_in_the_order_of_the_requests(
    requests: list[list[int]], streams: int, chunk_bytes: int
) -> None:
    async def run() -> None:
        storage = GatedStorage()
        storage.open(100_000)
        queue = ReadQueue(storage, streams, chunk_bytes)
        stored = bytes(range(256)) * 4
        calls, filled, expected = [], [], []
        for number, sizes in enumerate(requests):
            await storage.write(f"r{number}", stored)
            buffers = [bytearray(size) for size in sizes]
            filled += [(into, at) for at, into in enumerate(buffers)]
            spans = [(f"r{number}", at, memoryview(into)) for at, into in enumerate(buffers)]
            calls.append(queue.read(spans))
            for at, size in enumerate(sizes):
                for first in range(0, size, chunk_bytes):
                    expected.append((f"r{number}", at + first, min(chunk_bytes, size - first)))
        await asyncio.gather(*calls)
        assert storage.began == expected
        assert storage.most_running <= streams
        assert queue.queued_bytes == 0
        assert all(into == stored[at : at + len(into)] for into, at in filled)

    asyncio.run(run())


def test_queued_bytes_are_those_not_arrived_yet() -> None:
    async def run() -> None:
        storage = GatedStorage()
        queue = ReadQueue(storage, 2, 10)
        await storage.write("a", bytes(100))
        reads = [asyncio.create_task(queue.read([("a", 0, memoryview(bytearray(n)))])) for n in (25, 30)]
        await settle()
        assert queue.queued_bytes == 55
        assert len(storage.began) == 2
        storage.open(2)
        await settle()
        assert queue.queued_bytes == 35
        storage.open(4)
        await asyncio.gather(*reads)
        assert queue.queued_bytes == 0

    asyncio.run(run())


def test_a_failed_request_stops_no_other() -> None:
    async def run() -> None:
        storage = GatedStorage()
        queue = ReadQueue(storage, 2, 10)
        await storage.write("good", b"g" * 40)
        await storage.write("short", b"s" * 15)
        into = bytearray(40)
        bad = asyncio.create_task(queue.read([("short", 0, memoryview(bytearray(80)))]))
        good = asyncio.create_task(queue.read([("good", 0, memoryview(into))]))
        storage.open(100)
        with pytest.raises(StorageError, match="'short'"):
            await bad
        await good
        assert into == b"g" * 40
        assert queue.queued_bytes == 0
        assert sum(key == "short" for key, _, _ in storage.began) < 8

    asyncio.run(run())


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_cancelled_request_makes_way(victim: int) -> None:
    async def run() -> None:
        storage = GatedStorage()
        queue = ReadQueue(storage, 2, 10)
        await storage.write("a", bytes(100))
        reads = [asyncio.create_task(queue.read([("a", 0, memoryview(bytearray(50)))])) for _ in range(3)]
        await settle()
        reads[victim].cancel()
        with pytest.raises(asyncio.CancelledError):
            await reads[victim]
        await settle()
        assert queue.queued_bytes == 100
        assert storage.running == 2
        storage.open(100)
        await asyncio.gather(*(read for read in reads if not read.cancelled()))
        assert queue.queued_bytes == 0

    asyncio.run(run())


def test_closing_fails_what_is_under_way_and_what_waits() -> None:
    async def run() -> None:
        storage = GatedStorage()
        queue = ReadQueue(storage, 2, 10)
        await storage.write("a", bytes(100))
        reads = [asyncio.create_task(queue.read([("a", 0, memoryview(bytearray(50)))])) for _ in range(3)]
        await settle()
        await queue.close()
        results = await asyncio.gather(*reads, return_exceptions=True)
        assert all(isinstance(result, StorageError) for result in results)
        assert storage.running == 0
        assert queue.queued_bytes == 0
        with pytest.raises(StorageError, match="closed"):
            await queue.read([("a", 0, memoryview(bytearray(1)))])

    asyncio.run(run())
