"""A connection as either side has it: endpoint, mailbox, and the rendezvous line that tells when the peer is
gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from hosts.config import ClassMark
from hosts.line import Line
from hosts.transport.base import RemoteRegion, Strided, TransferError
from hosts.transport.plan import Side, plan
from hosts.transport.verbs.device import Device
from hosts.transport.verbs.endpoint import Endpoint, EndpointAddress
from hosts.transport.verbs.mailbox import MAILBOX_BYTES, RECEIVES, Letter, Mailbox
from hosts.transport.verbs.port import port_state
from hosts.transport.verbs.send_queue import Operation
from hosts.transport.verbs.work_requests import Opcode

_WATCHES_PER_TIMEOUT = 4


class Link:
    """``deliver`` takes the peer's notifications and says why one was not taken, or None."""

    def __init__(
        self, device: Device, peer: str, line: Line, timeout_s: float, deliver: Callable[[bytes], str | None]
    ) -> None:
        self.peer, self._device, self._line, self._timeout_s = peer, device, line, timeout_s
        self._loop = asyncio.get_running_loop()
        self._target: RemoteRegion | None = None
        self._progress_at = 0.0
        self._watching: asyncio.TimerHandle | None = None
        with ExitStack() as resources:
            resources.callback(line.close)
            boxes = np.zeros((2, MAILBOX_BYTES), np.uint8)
            self._inbox = device.register(boxes[0])
            resources.callback(self._inbox.close)
            self._outbox = device.register(boxes[1], remote=False)
            resources.callback(self._outbox.close)
            self.endpoint = Endpoint(
                device, peer, messages=RECEIVES, on_message=self._on_message, on_lost=self._on_lost
            )
            self._resources = resources.pop_all()
        self._mailbox = Mailbox(boxes[0], boxes[1], self._post, deliver)
        self._poller: asyncio.Task[None] | None = None

    @property
    def lost(self) -> str:
        """Why it is of no more use; empty while it is."""
        return self.endpoint.lost

    @property
    def address(self) -> EndpointAddress:
        """To be sent to the peer."""
        return self.endpoint.address(self._inbox.remote)

    def connect(self, peer: EndpointAddress, mark: ClassMark) -> None:
        """Ready to send from now on, and lost as soon as the peer's line ends."""
        self._target = peer.inbox
        self.endpoint.connect(peer, mark)

    async def until_gone(self) -> None:
        """Until the peer closes its line; then the link is lost."""
        try:
            await self._line.receive(bytes)
            reason = "the peer sent what no peer of this version sends"
        except (OSError, EOFError, ValueError):
            reason = "the peer closed the connection, or its process or host is gone"
        self.lose(reason)

    def post(self, operation: Operation) -> None:
        """Put it in the queue that has least to do."""
        operation.queue = min(self.endpoint.queues, key=lambda queue: queue.backlog)
        operation.queue.submit(operation)
        self._watch_progress()

    async def send(self, payload: bytes) -> asyncio.Future[str | None]:
        """Send a notification behind all writes that were posted; the result is why the peer did not take
        it."""
        await self._writes_elsewhere()
        answered = self._mailbox.send(payload)
        self._watch_progress()
        return answered

    async def finish(self, operation: Operation) -> None:
        """Until it is in place. After a cancellation, too, its memory is used no more when this returns."""
        try:
            await asyncio.shield(operation.settled)
        except asyncio.CancelledError:
            assert operation.queue is not None, "posted"
            operation.queue.abandon(operation)
            await asyncio.wait([operation.settled])
            operation.settled.exception()  # looked at here, since nobody else will
            raise

    async def _writes_elsewhere(self) -> None:
        """Messages go by the first queue pair, behind what that one carries; others have to be waited for."""
        settled = [operation.settled for queue in self.endpoint.queues[1:] for operation in queue.unsettled()]
        if settled:
            await asyncio.wait(settled)

    def lose(self, reason: str) -> None:
        """End it: everything outstanding fails for ``reason``."""
        self.endpoint.lose(reason)

    def uses(self, lkey: int) -> bool:
        """Whether something outstanding reads from or writes to the local region with that key."""
        return any(
            operation.lkey == lkey for queue in self.endpoint.queues for operation in queue.unsettled()
        )

    def _post(self, letter: Letter) -> None:
        assert self._target is not None, "connected"
        at = Strided(letter.offset, max(1, letter.nbytes))
        local = Side(self._outbox.remote.address, at)
        remote = Side(self._target.address, at)
        operation = Operation(
            name="notify",
            opcode=Opcode.WRITE_WITH_IMMEDIATE,
            plan=plan(local, remote, 1),
            lkey=self._outbox.lkey,
            rkey=self._target.key,
            region=0,
            offset=0,
            immediate=letter.immediate,
            inline=letter.nbytes <= self._device.config.inline_bytes,
        )
        # Nobody awaits it; what goes wrong ends the link, which says so.
        operation.settled.add_done_callback(lambda settled: settled.exception())
        self.endpoint.queues[0].submit(operation)

    def _on_message(self, immediate: int) -> None:
        self._progress_at = self._loop.time()
        self._mailbox.receive(immediate)

    def _on_lost(self, reason: str) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._mailbox.fail(TransferError(self.peer, "notify", 0, 0, reason))
        self._resources.close()

    # --- deadline and polling ----------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return self._mailbox.waits or any(queue.busy for queue in self.endpoint.queues)

    def _watch_progress(self) -> None:
        if self._watching is None and not self.lost:
            self._progress_at = self._loop.time()
            self._watch()
        if self._device.config.completion == "polling" and (self._poller is None or self._poller.done()):
            self._poller = asyncio.create_task(self._poll())

    def _watch(self) -> None:
        """Lose the link when, with something outstanding, nothing has completed for the timeout."""
        self._watching = None
        if self.lost or not self._busy:
            return
        now_at = self._loop.time()
        self._progress_at = max(self._progress_at, self.endpoint.completed_at)
        if now_at - self._progress_at >= self._timeout_s:
            port = self._device.port
            return self.lose(
                f"no completion for {self._timeout_s:g} s (timeout_s) on {port}, which is "
                f"{port_state(port) or 'gone'}; is the peer's process alive, and the way to it?"
            )
        self._watching = self._loop.call_later(self._timeout_s / _WATCHES_PER_TIMEOUT, self._watch)

    async def _poll(self) -> None:
        while self._busy and not self.lost:
            self.endpoint.poll()
            await asyncio.sleep(0)
