"""One queue pair's send queue: operations in the order of the calls, posted as far as the queue has room.

Requests are posted in lists whose last one is signaled (doorbell batching, paper 5.2); a reliable connection
completes them in order, so the completion of a list's last request completes the list.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from hosts.transport.base import TransferError
from hosts.transport.plan import Plan
from hosts.transport.verbs.work_requests import Opcode, SendList

_LISTS_IN_QUEUE = 2
"""Lists that fill the queue: while one completes, the other keeps the device busy."""


@dataclass(slots=True, eq=False)
class Operation:
    """A transfer from the call to its completion.

    ``name``, ``region`` and ``offset`` are what an error says; ``posted`` and ``completed`` count requests.
    ``settled``: nothing of it is in the queue any more, so its memory is the caller's again.
    """

    name: str
    opcode: Opcode
    plan: Plan
    lkey: int
    rkey: int
    region: int
    offset: int
    immediate: int | None = None
    inline: bool = False
    posted: int = 0
    completed: int = 0
    queue: SendQueue | None = None
    requests: int = field(init=False)
    settled: asyncio.Future[None] = field(init=False)

    def __post_init__(self) -> None:
        self.requests = self.plan.requests
        self.settled = asyncio.get_running_loop().create_future()

    def fail(self, peer: str, reason: str, request: int = 0) -> None:
        """Settled, without success, at one of its requests."""
        if not self.settled.done():
            at = self.offset + self.plan.bytes_before(request)
            self.settled.set_exception(TransferError(peer, self.name, self.region, at, reason))


class _PostedList(NamedTuple):
    """Requests ``begin`` to ``end`` of an operation."""

    operation: Operation
    begin: int
    end: int


class SendQueue:
    """Room for ``depth`` requests; ``post`` takes the address of a list and returns an errno.

    ``backlog``: requests that have not completed. ``on_error``: posting failed, and why; the queue pair is
    of no more use.
    """

    def __init__(
        self,
        peer: str,
        depth: int,
        max_entries: int,
        post: Callable[[int], int],
        on_error: Callable[[str], None],
    ) -> None:
        self._peer, self._post, self._on_error = peer, post, on_error
        # What a part of a layer loads, the same part of the next layer mostly finds there: so that other
        # parts and single requests between them do not take its place, each has a list of its own.
        self._part_requests = max(1, depth // _LISTS_IN_QUEUE)
        self._parts = [SendList(self._part_requests, max_entries) for _ in range(_LISTS_IN_QUEUE)]
        self._single = SendList(1, max_entries)
        self._room = depth
        self._waiting: deque[Operation] = deque()
        self._posted: deque[_PostedList] = deque()
        self.backlog = 0

    @property
    def busy(self) -> bool:
        """Whether a completion is due."""
        return bool(self._posted)

    def unsettled(self) -> list[Operation]:
        """Operations of which something is waiting or posted."""
        return [*dict.fromkeys([posted.operation for posted in self._posted] + list(self._waiting))]

    def submit(self, operation: Operation) -> None:
        """Post ``operation`` after those before it."""
        self.backlog += operation.requests
        self._waiting.append(operation)
        self._fill()

    def abandon(self, operation: Operation) -> None:
        """Post no more of ``operation``; it settles when what is posted has completed."""
        if operation in self._waiting:
            self._waiting.remove(operation)
            self.backlog -= operation.requests - operation.posted
            operation.requests = operation.posted
        if operation.completed == operation.posted and not operation.settled.done():
            operation.settled.set_result(None)

    def completed(self) -> None:
        """The oldest list has completed."""
        operation, begin, end = self._posted.popleft()
        operation.completed = end
        self._room += end - begin
        self.backlog -= end - begin
        if end == operation.requests and not operation.settled.done():
            operation.settled.set_result(None)
        self._fill()

    def failed(self, position: int, reason: str) -> None:
        """A request of the oldest list failed: its operation does, naming where."""
        if self._posted:
            operation, begin, _ = self._posted[0]
            operation.fail(self._peer, reason, begin + position)

    def clear(self, reason: str) -> None:
        """The queue pair is gone: fail everything."""
        for operation in self.unsettled():
            operation.fail(self._peer, reason)
        self._posted.clear()
        self._waiting.clear()
        self.backlog = 0

    def _fill(self) -> None:
        while self._waiting:
            operation = self._waiting[0]
            begin = operation.posted
            end = min(begin + self._part_requests, operation.requests)
            if end - begin > self._room:
                return
            send_list = self._list_for(operation)
            send_list.load(
                operation.opcode,
                operation.plan,
                begin,
                end,
                lkey=operation.lkey,
                rkey=operation.rkey,
                immediate=operation.immediate,
                inline=operation.inline,
            )
            if error := self._post(send_list.address):
                return self._on_error(f"posting failed: {os.strerror(error)}")
            operation.posted = end
            self._room -= end - begin
            self._posted.append(_PostedList(operation, begin, end))
            if end == operation.requests:
                self._waiting.popleft()

    def _list_for(self, operation: Operation) -> SendList:
        """The one that the operation's next requests are loaded into."""
        if operation.requests == 1:
            return self._single
        return self._parts[operation.posted // self._part_requests % len(self._parts)]
