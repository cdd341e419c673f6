"""The initiator's end of a connection: operations from the call to their end, in the order of the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hosts.line import Line
from hosts.nixl_agent import NixlAgent, NixlError
from hosts.pacing import TokenBucket
from hosts.peer_input import ProtocolError
from hosts.transport.base import Region, RemoteRegion, Strided, TransferError
from hosts.transport.nixl.descriptors import Chunk, chunks
from hosts.transport.nixl.memory import memory_of
from hosts.transport.nixl.messages import (
    Answer,
    Answered,
    Ask,
    Denied,
    Dropped,
    Ended,
    Granted,
    Mark,
    OperationName,
    Place,
    decode_mark,
)
from hosts.transport.nixl.outgoing import Job, Outgoing
from hosts.transport.nixl.registered import RegisteredRegions

_WATCHES_PER_TIMEOUT = 4
_NOTHING = Strided(0, 0)


class Operation:
    """``granted``: the target's leave, of what is sent from here. ``settled``: all bytes are in place, or
    never will be. ``answered``: why the peer did not take the notification, or empty. All raise
    `TransferError`."""

    def __init__(self, number: int, name: OperationName, region: int, at: Strided) -> None:
        loop = asyncio.get_running_loop()
        self.number, self.name, self.region, self.at = number, name, region, at
        self.local: Region | None = None
        self.job: Job | None = None
        self.granted: asyncio.Future[Granted] = loop.create_future()
        self.settled: asyncio.Future[None] = loop.create_future()
        self.answered: asyncio.Future[str] = loop.create_future()
        for future in (self.granted, self.settled, self.answered):
            future.add_done_callback(_looked_at)

    @property
    def over(self) -> bool:
        """Nothing more is to come of it."""
        return self.settled.done() and self.answered.done()

    @property
    def awaits_peer(self) -> bool:
        """Whether the peer has something to do about it, which is not so while its bytes are still here."""
        return not self.over and (self.job is None or not self.granted.done() or self.settled.done())

    def fail(self, peer: str, reason: str) -> None:
        """End it; what has ended already stays as it did."""
        for future in (self.granted, self.settled, self.answered):
            if not future.done():
                future.set_exception(TransferError(peer, self.name, self.region, self.at.offset, reason))


class InitiatorLink:
    """Owns ``agent`` and ``line``; ``target`` is the name of the peer's agent. ``start_polling`` is called
    when there is something to poll for."""

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
        self._agent, self._line, self._timeout_s = agent, line, timeout_s
        self._start_polling = start_polling
        self._loop = asyncio.get_running_loop()
        self._registered = RegisteredRegions(agent)
        self._outgoing = Outgoing(agent, target, pace, start_polling, self.lose)
        self._operations: dict[int, Operation] = {}
        self._numbers = 0
        self._watching: asyncio.TimerHandle | None = None
        self._progress_at = 0.0
        self._receiving = asyncio.create_task(self._receive_all())

    @property
    def busy(self) -> bool:
        """Whether something is with the peer or under way."""
        if self.lost:
            return False
        return self._outgoing.busy or any(operation.awaits_peer for operation in self._operations.values())

    # --- operations --------------------------------------------------------------------------

    def read(self, local: Region, local_at: Strided, remote: RemoteRegion, remote_at: Strided) -> Operation:
        """Begin a read: the target sends the bytes."""
        operation = self._operation("read", remote.key, remote_at)
        operation.local = local
        operation.answered.set_result("")
        if not self.lost:
            try:
                description = self._registered.describe(local)
            except NixlError as error:
                operation.fail(self.peer, str(error))
            else:
                self._ask(operation, Place(memory_of(local), local_at, description))
        return operation

    def write(
        self, local: Region, local_at: Strided, remote: RemoteRegion, remote_at: Strided, notify: bytes
    ) -> Operation:
        """Begin a write, behind every write and notification that was begun before."""
        operation = self._operation("write", remote.key, remote_at)
        operation.local = local
        if not notify:
            operation.answered.set_result("")

        async def prepare() -> list[Chunk]:
            place = (await self._leave(operation)).place
            assert place is not None, "of a write"
            self._registered.add(local)
            if place.description:
                self._agent.load(place.description)
            here = memory_of(local)
            return chunks(here, local_at, place.memory, place.at, self._outgoing.chunk_bytes)

        self._add(operation, prepare, notify or None)
        return operation

    def notify(self, payload: bytes) -> Operation:
        """Begin a notification, behind every write and notification that was begun before."""
        operation = self._operation("notify", 0, _NOTHING)

        async def prepare() -> list[Chunk]:
            await self._leave(operation)
            return []

        self._add(operation, prepare, payload)
        return operation

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

    def _operation(self, name: OperationName, region: int, at: Strided) -> Operation:
        self._numbers += 1
        operation = Operation(self._numbers, name, region, at)
        if self.lost:
            operation.fail(self.peer, self.lost)
        return operation

    def _add(
        self,
        operation: Operation,
        prepare: Callable[[], Awaitable[list[Chunk]]],
        notification: bytes | None,
    ) -> None:
        if not self.lost:
            closing = Mark(operation.number, notification=notification)
            operation.job = Job(prepare, closing, None, lambda complete: self._sent(operation, complete))
            self._ask(operation, None)
            self._outgoing.add(operation.job)

    def _ask(self, operation: Operation, into: Place | None) -> None:
        self._operations[operation.number] = operation
        self._line.post(Ask(operation.number, operation.name, operation.region, operation.at, into))
        if self._watching is None:
            self._progress_at = self._loop.time()
            self._watch()
        self._start_polling()

    async def _leave(self, operation: Operation) -> Granted:
        """The target's; `LookupError` if it does not give it."""
        try:
            return await asyncio.shield(operation.granted)
        except TransferError as error:
            raise LookupError(str(error)) from error

    def _abandon(self, operation: Operation) -> None:
        if operation.job is not None:
            self._outgoing.abandon(operation.job)
        elif not operation.settled.done():
            self._line.post(Dropped(operation.number))

    def _sent(self, operation: Operation, complete: bool) -> None:
        """Of a write or notification: all is in place; or it was cancelled, and nothing is under way."""
        self._progress_at = self._loop.time()
        if complete:
            operation.settled.set_result(None)
        elif not operation.settled.done():
            self._line.post(Dropped(operation.number))
            operation.fail(self.peer, "cancelled")
        self._forget_if_over(operation)

    def _forget_if_over(self, operation: Operation) -> None:
        if operation.over:
            self._operations.pop(operation.number, None)

    # --- the peer ----------------------------------------------------------------------------

    def poll(self) -> None:
        """Move bytes, and take what came in band."""
        try:
            self._outgoing.poll()
            for message in self._agent.messages():
                self._arrived(decode_mark(message))
        except (NixlError, ProtocolError) as error:
            self.lose(str(error))

    def _arrived(self, mark: Mark) -> None:
        self._progress_at = self._loop.time()
        operation = self._operations.get(mark.number)
        if operation is not None and mark.closes and not operation.settled.done():
            operation.settled.set_result(None)
            self._forget_if_over(operation)

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

    def _take(self, answer: Granted | Denied | Ended | Answered) -> None:
        self._progress_at = self._loop.time()
        operation = self._operations.get(answer.number)
        if operation is None:
            return  # cancelled meanwhile
        match answer:
            case Granted() if not operation.granted.done():
                operation.granted.set_result(answer)
            case Denied():
                operation.fail(self.peer, answer.reason)
            case Ended():
                operation.fail(self.peer, "cancelled")
            case Answered() if not operation.answered.done():
                operation.answered.set_result(answer.reason)
        self._forget_if_over(operation)

    # --- the end -----------------------------------------------------------------------------

    def withdraw(self, region: Region) -> None:
        """The local region is being deregistered: nothing that uses it may go on."""
        if any(operation.local is region for operation in self._operations.values()):
            self.lose("the local region was deregistered during the transfer")
        elif not self.lost and not self._registered.remove(region):
            self.lose("GPU memory that the peer knows was deregistered")

    def lose(self, reason: str) -> None:
        """End the connection: everything outstanding fails, and touches no memory any more."""
        if self.lost:
            return
        self.lost = reason
        self._outgoing.stop()
        self._agent.close()
        self._line.close()
        if self._watching is not None:
            self._watching.cancel()
        for operation in self._operations.values():
            operation.fail(self.peer, reason)
        self._operations.clear()

    async def ended(self) -> None:
        """Until what works for the lost connection has stopped."""
        await asyncio.gather(self._outgoing.posting, self._receiving, return_exceptions=True)

    def _watch(self) -> None:
        """Lose the link when, with something at the peer, nothing has come back for the timeout."""
        self._watching = None
        if not self.busy:
            if self._operations:  # their bytes are still here: paced
                self._progress_at = self._loop.time()
                self._watching = self._loop.call_later(self._timeout_s / _WATCHES_PER_TIMEOUT, self._watch)
            return
        if self._loop.time() - self._progress_at >= self._timeout_s:
            return self.lose(f"no progress for {self._timeout_s:g} s (timeout_s)")
        self._watching = self._loop.call_later(self._timeout_s / _WATCHES_PER_TIMEOUT, self._watch)


def _looked_at(future: asyncio.Future[Any]) -> None:
    """Its error is its user's affair, who may be gone."""
    if not future.cancelled():
        future.exception()
