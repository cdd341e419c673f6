"""The target's end of a connection: it checks every operation, sends what is read, and polls while any is not
over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hosts.line import Line
from hosts.nixl_agent import NixlAgent, NixlError
from hosts.pacing import TokenBucket
from hosts.peer_input import ProtocolError
from hosts.transport.base import Region
from hosts.transport.nixl.descriptors import Chunk, chunks
from hosts.transport.nixl.memory import memory_of
from hosts.transport.nixl.messages import (
    Answered,
    Ask,
    Denied,
    Dropped,
    Ended,
    Granted,
    Mark,
    Place,
    Request,
    decode_mark,
)
from hosts.transport.nixl.outgoing import Job, Outgoing
from hosts.transport.nixl.registered import RegisteredRegions


class TargetLink:
    """Owns ``agent`` and ``line``; ``initiator`` is the name of the peer's agent. ``regions`` are those
    offered now; ``deliver`` takes a notification and says why it was not taken, or None."""

    def __init__(
        self,
        agent: NixlAgent,
        line: Line,
        initiator: str,
        regions: dict[int, Region],
        deliver: Callable[[bytes], str | None],
        pace: TokenBucket,
        start_polling: Callable[[], None],
    ) -> None:
        self.lost = ""
        self._agent, self._line, self._regions = agent, line, regions
        self._deliver, self._start_polling = deliver, start_polling
        self._registered = RegisteredRegions(agent)
        self._outgoing = Outgoing(agent, initiator, pace, start_polling, self.lose)
        self._writes: dict[
            int, int
        ] = {}  # region of each that was granted and is not over; notifications too
        self._reads: dict[int, tuple[int, Job]] = {}

    @property
    def busy(self) -> bool:
        """Whether there is something to poll for."""
        return not self.lost and (bool(self._writes) or self._outgoing.busy)

    async def serve(self) -> None:
        """Answer the initiator until its line ends."""
        reason = "the initiator closed the connection"
        try:
            while not self.lost:
                request: Ask | Dropped = await self._line.receive(Request)
                if isinstance(request, Ask):
                    self._answer(request)
                else:
                    self._drop(request.number)
        except (OSError, EOFError):
            pass
        except (ValueError, NixlError) as error:
            reason = str(error)
        finally:
            self.lose(reason)
            await asyncio.gather(self._outgoing.posting, return_exceptions=True)

    def _answer(self, ask: Ask) -> None:
        try:
            self._begin(ask)
        except NixlError as error:
            self._line.post(Denied(ask.number, str(error)))

    def _begin(self, ask: Ask) -> None:
        if ask.into is not None and ask.into.description:  # it comes once, also with what is denied
            self._agent.load(ask.into.description)
        region = self._regions.get(ask.region)
        if ask.operation == "notify":
            self._grant(ask, None)
        elif region is None:
            self._line.post(Denied(ask.number, "no such region is registered"))
        elif fault := ask.at.fault(region.remote.length):
            self._line.post(Denied(ask.number, fault))
        elif ask.operation == "write":
            self._grant(ask, Place(memory_of(region), ask.at, self._registered.describe(region)))
        elif ask.into is None or ask.into.at.fault(1 << 62) or ask.into.at.nbytes != ask.at.nbytes:
            raise ValueError(f"a read into {ask.into}: expected as many bytes as {ask.at} has")
        else:
            self._send(ask, region, ask.into)

    def _grant(self, ask: Ask, place: Place | None) -> None:
        self._writes[ask.number] = ask.region
        self._start_polling()
        self._line.post(Granted(ask.number, place))

    def _send(self, ask: Ask, region: Region, into: Place) -> None:
        self._registered.add(region)

        async def prepare() -> list[Chunk]:
            return chunks(memory_of(region), ask.at, into.memory, into.at, self._outgoing.chunk_bytes)

        def on_end(complete: bool) -> None:
            del self._reads[ask.number]
            if not complete:
                self._line.post(Ended(ask.number))

        job = Job(prepare, Mark(ask.number), Mark(ask.number, closes=False), on_end)
        self._reads[ask.number] = ask.region, job
        self._outgoing.add(job)

    def _drop(self, number: int) -> None:
        self._writes.pop(number, None)
        if number in self._reads:
            self._outgoing.abandon(self._reads[number][1])

    def poll(self) -> None:
        """Move bytes, and take what came in band."""
        try:
            self._outgoing.poll()
            for message in self._agent.messages():
                self._take(decode_mark(message))
        except (NixlError, ProtocolError) as error:
            self.lose(str(error))

    def _take(self, mark: Mark) -> None:
        self._writes.pop(mark.number, None)
        if mark.notification is not None:
            self._line.post(Answered(mark.number, self._deliver(mark.notification) or ""))

    def withdraw(self, region: Region) -> None:
        """The region is offered no more. While bytes of it are under way, only the agent's end stops them."""
        used = [*self._writes.values(), *(key for key, _ in self._reads.values())]
        if region.remote.key in used:
            self.lose("a region was deregistered during a transfer")
        elif not self.lost and not self._registered.remove(region):
            self.lose("GPU memory that the peer knows was deregistered")

    def lose(self, reason: str) -> None:
        """End the connection: from now on the peer reaches nothing by it."""
        if not self.lost:
            self.lost = reason
            self._outgoing.stop()
            self._agent.close()
            self._line.close()
