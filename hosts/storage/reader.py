"""A host's read queue: requests in strict FIFO order, a few ranges in flight at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hosts.storage.base import Storage

Part = tuple[str, int, memoryview]


class _Request:
    def __init__(self, chunks: int) -> None:
        self.left = chunks
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def chunk_done(self) -> None:
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)

    def failed(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class ReadQueue:
    """``streams`` workers take chunks of at most ``chunk_bytes`` from the head of the queue.

    First come, first served gives the earliest request the whole NIC, which is what the paper's read
    queue (6.1) assumes; several streams hide a request's round trip behind the others' bytes.
    """

    def __init__(self, storage: Storage, streams: int, chunk_bytes: int) -> None:
        self._storage = storage
        self._chunk_bytes = chunk_bytes
        self._queue: asyncio.Queue[tuple[_Request, Part]] = asyncio.Queue()
        self._workers = [asyncio.create_task(self._work(), name=f"read-{i}") for i in range(streams)]
        self.queued_bytes = 0

    async def read(self, parts: Sequence[Part]) -> None:
        """Read every (key, byte offset, buffer); raises the first StorageError of its own parts."""
        chunks = [
            (key, offset + at, into[at : at + self._chunk_bytes])
            for key, offset, into in parts
            for at in range(0, len(into), self._chunk_bytes)
        ]
        if not chunks:
            return
        request = _Request(len(chunks))
        for chunk in chunks:
            self.queued_bytes += len(chunk[2])
            self._queue.put_nowait((request, chunk))
        await request.done

    async def close(self) -> None:
        """Cancel what is queued and under way."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait()[0].done.cancel()

    async def _work(self) -> None:
        while True:
            request, (key, offset, into) = await self._queue.get()
            self.queued_bytes -= len(into)
            if request.done.done():
                continue  # failed or given up: its buffer may be somebody else's already
            try:
                await self._storage.read_into(key, offset, into)
            except asyncio.CancelledError:
                request.done.cancel()
                raise
            except Exception as error:
                request.failed(error)
            else:
                request.chunk_done()
