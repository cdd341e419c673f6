"""Bytes on their way to a connection's other end: in order, a few chunks at once, at the host's pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from hosts.nixl_agent import NixlAgent, NixlError, Transfer
from hosts.pacing import TokenBucket
from hosts.transport.nixl.descriptors import CHUNK_BYTES, Chunk
from hosts.transport.nixl.messages import Mark

WINDOW_CHUNKS = 4
"""Under way at once, so that there is work while we look at what is done."""
_PACED_CHUNK_S = 0.02
_LEAST_CHUNK_BYTES = 64 * 1024


class Job:
    """What to send: the chunks that ``prepare`` finds when its turn comes, or nothing if that raises
    `LookupError`.

    ``closing`` goes with the last one, or alone if there are none; ``passing``, if any, with each before.
    ``on_end`` is called when all is in place; or, with False, when it was abandoned and nothing of it is
    under way.
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[list[Chunk]]],
        closing: Mark,
        passing: Mark | None,
        on_end: Callable[[bool], None],
    ) -> None:
        self.prepare, self.closing, self.passing, self.on_end = prepare, closing, passing, on_end
        self.under_way = 0
        self.abandoned = self.ended = False

    def end(self, complete: bool) -> None:
        """Say so, once."""
        if not self.ended:
            self.ended = True
            self.on_end(complete)


class _Posted:
    """A chunk under way or, without a transfer, a mark to be sent when all before it are done."""

    def __init__(self, job: Job, transfer: Transfer | None, mark: Mark | None) -> None:
        self.job, self.transfer, self.mark = job, transfer, mark


class Outgoing:
    """Sends to ``peer``'s agent. ``start_polling`` is called when there is something to poll for, ``on_lost``
    when NIXL fails; ``pace`` is shared by all that the host sends. ``posting`` ends after `stop`."""

    def __init__(
        self,
        agent: NixlAgent,
        peer: str,
        pace: TokenBucket,
        start_polling: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._agent, self._peer, self._pace = agent, peer, pace
        self._start_polling, self._on_lost = start_polling, on_lost
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._posted: deque[_Posted] = deque()
        self._room = asyncio.Event()
        self.posting = asyncio.create_task(self._post_all())

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._posted)

    @property
    def chunk_bytes(self) -> int:
        """As much as is worth posting at once, and no more than passes soon enough to look like progress."""
        paced = int(self._pace.bytes_per_s * _PACED_CHUNK_S)
        return min(CHUNK_BYTES, max(_LEAST_CHUNK_BYTES, paced)) if paced else CHUNK_BYTES

    def add(self, job: Job) -> None:
        """Send it behind those added before."""
        self._jobs.put_nowait(job)

    def abandon(self, job: Job) -> None:
        """Send no more of it."""
        job.abandoned = True
        if not job.under_way:
            job.end(False)

    def poll(self) -> None:
        """Move bytes, and end what is done, in the order in which it was posted: so are marks sent.

        `NixlError` if the connection failed.
        """
        while self._posted and (self._posted[0].transfer is None or self._posted[0].transfer.done()):
            posted = self._posted.popleft()
            job = posted.job
            job.under_way -= 1
            if posted.transfer is not None:
                posted.transfer.release()
            elif posted.mark is not None:
                self._agent.send(self._peer, msgspec.msgpack.encode(posted.mark))
            self._room.set()
            if posted.mark is job.closing:
                job.end(True)
            elif job.abandoned and not job.under_way:
                job.end(False)

    def stop(self) -> None:
        """Send nothing more. What is under way ends with the agent."""
        self._posted.clear()
        self.posting.cancel()

    async def _post_all(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                await self._post_chunks(job, await job.prepare())
            except LookupError:
                pass
            except NixlError as error:
                return self._on_lost(str(error))

    async def _post_chunks(self, job: Job, chunks: list[Chunk]) -> None:
        for number, chunk in enumerate(chunks, 1):
            await self._pace.take(chunk.nbytes)
            while len(self._posted) >= WINDOW_CHUNKS:
                self._room.clear()
                await self._room.wait()
            if job.abandoned:
                return
            self._post(job, chunk, job.closing if number == len(chunks) else job.passing)
        if not chunks and not job.abandoned:
            self._post(job, None, job.closing)

    def _post(self, job: Job, chunk: Chunk | None, mark: Mark | None) -> None:
        message = msgspec.msgpack.encode(mark) if mark else b""
        transfer = None
        if chunk is not None:
            transfer = self._agent.post(
                "WRITE",
                chunk.local,
                chunk.remote,
                self._peer,
                message=message,
                local_kind=chunk.local_kind,
                remote_kind=chunk.remote_kind,
            )
        self._posted.append(_Posted(job, transfer, mark))
        job.under_way += 1
        self._start_polling()
