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

from hosts.transport.base import TransferError
from hosts.transport.plan import Plan
from hosts.transport.verbs.work_requests import Opcode, SendList

_LISTS_IN_QUEUE = 4
"""Lists that fill the queue: while one completes, the others keep the device busy."""
_REQUEST_BITS = 32


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
        self.requests = len(self.plan.remote)
        self.settled = asyncio.get_running_loop().create_future()

    def fail(self, peer: str, reason: str, request: int = 0) -> None:
        """Settled, without success, at one of its requests."""
        if not self.settled.done():
            at = self.offset + self.plan.bytes_before(request)
            self.settled.set_exception(TransferError(peer, self.name, self.region, at, reason))


@dataclass(slots=True)
class _PostedList:
    operation: Operation
    requests: int


class SendQueue:
    """Room for ``depth`` requests; ``post`` takes the address of a list and returns an errno.

    ``on_error``: posting failed, and why; the queue pair is of no more use.
    """

    def __init__(
        self,
        peer: str,
        depth: int,
        send_list: SendList,
        post: Callable[[int], int],
        on_error: Callable[[str], None],
    ) -> None:
        self._peer, self._post, self._list, self._on_error = peer, post, send_list, on_error
        self._room = depth
        self._most = min(max(1, depth // _LISTS_IN_QUEUE), send_list.capacity)
        self._waiting: deque[Operation] = deque()
        self._posted: deque[_PostedList] = deque()
        self._numbers = 0

    @property
    def busy(self) -> bool:
        """Whether a completion is due."""
        return bool(self._posted)

    @property
    def backlog(self) -> int:
        """Requests that have not completed."""
        waiting = sum(operation.requests - operation.posted for operation in self._waiting)
        return waiting + sum(posted.requests for posted in self._posted)

    def unsettled(self) -> list[Operation]:
        """Operations of which something is waiting or posted."""
        return [*dict.fromkeys([posted.operation for posted in self._posted] + list(self._waiting))]

    def submit(self, operation: Operation) -> None:
        """Post ``operation`` after those before it."""
        self._waiting.append(operation)
        self._fill()

    def abandon(self, operation: Operation) -> None:
        """Post no more of ``operation``; it settles when what is posted has completed."""
        operation.requests = operation.posted
        if operation in self._waiting:
            self._waiting.remove(operation)
        if operation.completed == operation.posted and not operation.settled.done():
            operation.settled.set_result(None)

    def completed(self) -> None:
        """The oldest list has completed."""
        posted = self._posted.popleft()
        operation = posted.operation
        operation.completed += posted.requests
        self._room += posted.requests
        if operation.completed == operation.requests and not operation.settled.done():
            operation.settled.set_result(None)
        self._fill()

    def failed(self, wr_id: int, reason: str) -> None:
        """A request of the oldest list failed: its operation does, naming where."""
        if self._posted:
            self._posted[0].operation.fail(self._peer, reason, wr_id % (1 << _REQUEST_BITS))

    def clear(self, reason: str) -> None:
        """The queue pair is gone: fail everything."""
        for operation in self.unsettled():
            operation.fail(self._peer, reason)
        self._posted.clear()
        self._waiting.clear()

    def _fill(self) -> None:
        while self._waiting and self._room:
            operation = self._waiting[0]
            begin = operation.posted
            end = min(begin + min(self._room, self._most), operation.requests)
            self._numbers += 1
            self._list.load(
                operation.opcode,
                operation.plan,
                begin,
                end,
                lkey=operation.lkey,
                rkey=operation.rkey,
                wr_id=self._numbers << _REQUEST_BITS,
                immediate=operation.immediate,
                inline=operation.inline,
            )
            if error := self._post(self._list.address):
                return self._on_error(f"posting failed: {os.strerror(error)}")
            operation.posted = end
            self._room -= end - begin
            self._posted.append(_PostedList(operation, end - begin))
            if end == operation.requests:
                self._waiting.popleft()
