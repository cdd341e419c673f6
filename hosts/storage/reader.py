"""The host's read queue: what every turn reads from storage passes through it, first come first served.

Its length in bytes is what the request scheduler compares when it picks the read path (paper 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from hosts.storage.base import Storage, StorageError

ReadSpan: TypeAlias = tuple[str, int, memoryview]
"""Key, byte offset in the object, and the buffer to fill from there."""


class ReadQueue:
    """Reads in chunks of ``chunk_bytes``, ``streams`` at a time, strictly in the order of the requests."""

    def __init__(self, storage: Storage, streams: int, chunk_bytes: int) -> None:
        if streams < 1 or chunk_bytes < 1:
            raise ValueError(f"{streams} streams of {chunk_bytes} bytes: expected at least one of one byte")
        self._storage = storage
        self._chunk_bytes = chunk_bytes
        self._queued_bytes = 0
        # The request whose turn it is takes streams until all its chunks are under way; the next
        # one then takes over what becomes free. Both primitives wake their waiters in order.
        self._turn = asyncio.Lock()
        self._streams = asyncio.Semaphore(streams)
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def queued_bytes(self) -> int:
        """Bytes asked for that have not arrived yet, those on their way included."""
        return self._queued_bytes

    async def read(self, spans: Sequence[ReadSpan]) -> None:
        """Fill every span's buffer. At the first `StorageError` the rest of the request is dropped.

        When this returns or raises, also by cancellation, the buffers are used no more.
        """
        missing_bytes = sum(into.nbytes for _, _, into in spans)
        self._queued_bytes += missing_bytes

        async def read_chunk(key: str, offset: int, into: memoryview) -> None:
            nonlocal missing_bytes
            await self._storage.read_into(key, offset, into)
            missing_bytes -= into.nbytes
            self._queued_bytes -= into.nbytes

        try:
            async with asyncio.TaskGroup() as chunks, self._turn:
                for key, offset, into in spans:
                    target = into.cast("B")
                    for first in range(0, len(target), self._chunk_bytes):
                        await self._take_stream(key)
                        piece = target[first : first + self._chunk_bytes]
                        task = chunks.create_task(read_chunk(key, offset + first, piece))
                        self._running.add(task)
                        task.add_done_callback(self._give_stream_back)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self._queued_bytes -= missing_bytes
        if missing_bytes:
            self._check_open(spans[0][0])

    async def close(self) -> None:
        """Cancel the reads under way and fail those that wait."""
        self._closed = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def _take_stream(self, key: str) -> None:
        await self._streams.acquire()
        try:
            self._check_open(key)
        except StorageError:
            self._streams.release()
            raise

    def _give_stream_back(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._streams.release()

    def _check_open(self, key: str) -> None:
        if self._closed:
            raise StorageError(key, "read", "the read queue was closed")
