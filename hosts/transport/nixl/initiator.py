"""The initiator's end of a connection: operations from the call to their end, in the order of the calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from hosts.nixl_agent import NixlAgent, NixlError, Transfer
from hosts.pacing import TokenBucket
from hosts.transport.base import Region, RemoteRegion, Strided, TransferError
from hosts.transport.nixl.descriptors import CHUNK_BYTES, Chunk, chunks
from hosts.transport.nixl.messages import (
    Answer,
    Answered,
    Ask,
    Closing,
    Denied,
    Dropped,
    Granted,
    OperationName,
)
from hosts.transport.nixl.registered import RegisteredRegions, address
from hosts.transport.plan import Side
from hosts.transport.rendezvous import Line

WINDOW_BYTES = 4 * CHUNK_BYTES
"""Under way at once, so that the peer has work while we look at what is done."""
_WATCHES_PER_TIMEOUT = 4
_NOTHING = Strided(0, 0)


class Operation:
    """``settled``: its bytes are in place, or never will be. ``answered``: why the peer did not take its
    notification, or empty. Both raise `TransferError`."""

    def __init__(self, name: OperationName, region: int, at: Strided, closing: Closing) -> None:
        loop = asyncio.get_running_loop()
        self.name, self.region, self.at, self.closing = name, region, at, closing
        self.local: Region | None = None
        self.local_at = _NOTHING
        self.granted: asyncio.Future[Granted] = loop.create_future()
        self.settled: asyncio.Future[None] = loop.create_future()
        self.answered: asyncio.Future[str] = loop.create_future()
        self.under_way = 0
        self.abandoned = False
        if closing.notification is None:
            self.answered.set_result("")
        for future in (self.granted, self.settled, self.answered):
            future.add_done_callback(_looked_at)

    @property
    def over(self) -> bool:
        """Nothing more is to come of it."""
        return self.settled.done() and self.answered.done()

    @property
    def awaits_peer(self) -> bool:
        """Whether the peer has something to say of it."""
        return not self.granted.done() or (self.settled.done() and not self.answered.done())

    def fail(self, peer: str, reason: str) -> None:
        """End it; what has ended already stays as it did."""
        for future in (self.granted, self.settled, self.answered):
            if not future.done():
                future.set_exception(TransferError(peer, self.name, self.region, self.at.offset, reason))


class _Posted:
    """A chunk under way or, without a transfer, a message to be sent when all before it are done."""

    def __init__(self, operation: Operation, transfer: Transfer | None, nbytes: int, message: bytes) -> None:
        self.operation, self.transfer, self.nbytes, self.message = operation, transfer, nbytes, message


class InitiatorLink:
    """Owns ``agent`` and ``line``; ``target`` is the name of the peer's agent."""

    def __init__(
        self,
        agent: NixlAgent,
        line: Line,
        peer: str,
        target: str,
        pace: TokenBucket,
        timeout_s: float,
        start_polling: Callable[[], None],
    ) -> None:
        self.peer, self.lost = peer, ""
        self._agent, self._line, self._target = agent, line, target
        self._pace, self._timeout_s, self._start_polling = pace, timeout_s, start_polling
        self._loop = asyncio.get_running_loop()
        self._registered = RegisteredRegions(agent)
        self._operations: dict[int, Operation] = {}
        self._numbers = 0
        self._to_post: asyncio.Queue[Operation] = asyncio.Queue()
        self._posted: deque[_Posted] = deque()
        self._posted_bytes = 0
        self._room = asyncio.Event()
        self._watching: asyncio.TimerHandle | None = None
        self._progress_at = 0.0
        self._tasks = [asyncio.create_task(work) for work in (self._post_all(), self._receive_all())]

    @property
    def busy(self) -> bool:
        """Whether something is with the peer."""
        if self.lost:
            return False
        return bool(self._posted) or any(operation.awaits_peer for operation in self._operations.values())

    # --- operations --------------------------------------------------------------------------

    def transfer(
        self,
        name: OperationName,
        local: Region,
        local_at: Strided,
        remote: RemoteRegion,
        remote_at: Strided,
        notify: bytes,
    ) -> Operation:
        """Begin a read or a write."""
        closing = Closing(self._next_number(), notify or None)
        operation = Operation(name, remote.key, remote_at, closing)
        operation.local, operation.local_at = local, local_at
        return self._ask(operation)

    def notify(self, payload: bytes) -> Operation:
        """Begin a notification behind everything that was begun before."""
        return self._ask(Operation("notify", 0, _NOTHING, Closing(self._next_number(), payload)))

    async def finish(self, operation: Operation) -> None:
        """Until it is in place and taken. After a cancellation, too, its memory is used no more."""
        try:
            await asyncio.shield(operation.settled)
            refused = await asyncio.shield(operation.answered)
        except asyncio.CancelledError:
            self._abandon(operation)
            await asyncio.wait([operation.settled])
            raise
        if refused:
            raise TransferError(self.peer, operation.name, operation.region, operation.at.offset, refused)

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _ask(self, operation: Operation) -> Operation:
        if self.lost:
            operation.fail(self.peer, self.lost)
            return operation
        number = operation.closing.number
        self._operations[number] = operation
        self._line.post(Ask(number, operation.name, operation.region, operation.at))
        self._to_post.put_nowait(operation)
        self._watch_progress()
        return operation

    def _abandon(self, operation: Operation) -> None:
        operation.abandoned = True
        self._end_abandoned(operation)

    def _end_abandoned(self, operation: Operation) -> None:
        """One that was cancelled ends as soon as none of it is under way."""
        if operation.abandoned and not operation.under_way and not operation.settled.done():
            self._line.post(Dropped(operation.closing.number))
            self._operations.pop(operation.closing.number, None)
            operation.fail(self.peer, "cancelled")

    # --- posting -----------------------------------------------------------------------------

    async def _post_all(self) -> None:
        while True:
            operation = await self._to_post.get()
            try:
                granted = await operation.granted
                if operation.local is None:
                    self._post(operation, None, operation.closing)
                elif not operation.abandoned:
                    await self._post_chunks(operation, operation.local, granted)
            except TransferError:
                continue  # denied, and told to its caller
            except NixlError as error:
                return self.lose(str(error))

    async def _post_chunks(self, operation: Operation, local: Region, granted: Granted) -> None:
        self._registered.add(local)
        if granted.description:
            self._agent.load(granted.description)
        here, there = Side(address(local), operation.local_at), Side(granted.address, operation.at)
        parts = chunks(here, local.remote.key, there, operation.region)
        for number, chunk in enumerate(parts):
            await self._pace.take(chunk.nbytes)
            while self._posted and self._posted_bytes + chunk.nbytes > WINDOW_BYTES:
                self._room.clear()
                await self._room.wait()
            if operation.abandoned:
                return
            self._post(operation, chunk, operation.closing if number + 1 == len(parts) else None)

    def _post(self, operation: Operation, chunk: Chunk | None, closing: Closing | None) -> None:
        message = msgspec.msgpack.encode(closing) if closing else b""
        transfer = None
        if chunk is not None:
            direction: Literal["READ", "WRITE"] = "READ" if operation.name == "read" else "WRITE"
            transfer = self._agent.post(direction, chunk.local, chunk.remote, self._target, message=message)
        nbytes = chunk.nbytes if chunk else 0
        self._posted.append(_Posted(operation, transfer, nbytes, message))
        self._posted_bytes += nbytes
        operation.under_way += 1
        self._watch_progress()
        self._start_polling()

    def poll(self) -> None:
        """Move bytes, and end what is done, in the order in which it was posted: so are messages sent."""
        try:
            if not self._posted:
                self._agent.messages()
            while self._posted and (self._posted[0].transfer is None or self._posted[0].transfer.done()):
                self._end(self._posted.popleft())
        except NixlError as error:
            self.lose(str(error))

    def _end(self, posted: _Posted) -> None:
        operation = posted.operation
        if posted.transfer is None:
            self._agent.send(self._target, posted.message)
        else:
            posted.transfer.release()
        self._posted_bytes -= posted.nbytes
        operation.under_way -= 1
        self._progress_at = self._loop.time()
        self._room.set()
        if posted.message:
            operation.settled.set_result(None)
            self._forget_if_over(operation)
        else:
            self._end_abandoned(operation)

    def _forget_if_over(self, operation: Operation) -> None:
        if operation.over:
            self._operations.pop(operation.closing.number, None)

    # --- the peer's answers ------------------------------------------------------------------

    async def _receive_all(self) -> None:
        reason = "the peer closed the connection"
        try:
            while True:
                self._take(await self._line.receive(Answer))
        except (OSError, EOFError):
            pass
        except ValueError as error:
            reason = f"the peer sent what no peer of this version sends: {error}"
        self.lose(reason)

    def _take(self, answer: Granted | Denied | Answered) -> None:
        self._progress_at = self._loop.time()
        operation = self._operations.get(answer.number)
        if operation is None:
            return  # cancelled meanwhile
        match answer:
            case Granted() if not operation.granted.done():
                operation.granted.set_result(answer)
            case Denied():
                operation.fail(self.peer, answer.reason)
            case Answered() if not operation.answered.done():
                operation.answered.set_result(answer.reason)
        self._forget_if_over(operation)

    # --- the end -----------------------------------------------------------------------------

    def withdraw(self, region: Region) -> None:
        """The local region is being deregistered: nothing that uses it may go on."""
        if any(operation.local is region for operation in self._operations.values()):
            self.lose("the local region was deregistered during the transfer")
        elif not self.lost:
            self._registered.remove(region)

    def lose(self, reason: str) -> None:
        """End the connection: everything outstanding fails, and touches no memory any more."""
        if self.lost:
            return
        self.lost = reason
        self._agent.close()
        self._line.close()
        if self._watching is not None:
            self._watching.cancel()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for operation in self._operations.values():
            operation.fail(self.peer, reason)
        self._operations.clear()
        self._posted.clear()

    async def ended(self) -> None:
        """Until what works for the connection has noticed that it is lost."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _watch_progress(self) -> None:
        if self._watching is None:
            self._progress_at = self._loop.time()
            self._watch()

    def _watch(self) -> None:
        """Lose the link when, with something at the peer, nothing has come back for the timeout."""
        self._watching = None
        if not self.busy:
            return
        if self._loop.time() - self._progress_at >= self._timeout_s:
            return self.lose(f"no progress for {self._timeout_s:g} s (timeout_s)")
        self._watching = self._loop.call_later(self._timeout_s / _WATCHES_PER_TIMEOUT, self._watch)


def _looked_at(future: asyncio.Future[Any]) -> None:
    """Its error is its user's affair, who may be gone."""
    if not future.cancelled():
        future.exception()
