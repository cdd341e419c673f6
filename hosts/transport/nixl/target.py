"""The target's end of a connection: it grants operations, and polls while one that it granted is not over."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hosts.nixl_agent import NixlAgent, NixlError
from hosts.transport.base import Region
from hosts.transport.nixl.messages import Answered, Ask, Closing, Denied, Dropped, Granted, Request
from hosts.transport.nixl.registered import RegisteredRegions, address
from hosts.transport.rendezvous import Line


class TargetLink:
    """Owns ``agent`` and ``line``. ``regions`` are those offered now; ``deliver`` takes a notification and
    says why it was not taken, or None; ``start_polling`` is called when there is something to poll for."""

    def __init__(
        self,
        agent: NixlAgent,
        line: Line,
        regions: dict[int, Region],
        deliver: Callable[[bytes], str | None],
        start_polling: Callable[[], None],
    ) -> None:
        self.lost = ""
        self._agent, self._line, self._regions = agent, line, regions
        self._deliver, self._start_polling = deliver, start_polling
        self._registered = RegisteredRegions(agent)
        self._granted: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return bool(self._granted) and not self.lost

    async def serve(self) -> None:
        """Answer the initiator until its line ends."""
        reason = "the initiator closed the connection"
        try:
            while not self.lost:
                request: Ask | Dropped = await self._line.receive(Request)
                if isinstance(request, Ask):
                    self._line.post(self._answer(request))
                else:
                    self._granted.pop(request.number, None)
        except (OSError, EOFError):
            pass
        except (ValueError, NixlError) as error:
            reason = str(error)
        finally:
            self.lose(reason)

    def _answer(self, ask: Ask) -> Granted | Denied:
        granted = Granted(ask.number)
        if ask.operation != "notify":
            region = self._regions.get(ask.region)
            if region is None:
                return Denied(ask.number, "no such region is registered")
            if fault := ask.at.fault(region.remote.length):
                return Denied(ask.number, fault)
            registration = self._registered.add(region)
            description = self._agent.description(registration) if registration else b""
            granted = Granted(ask.number, address(region), description)
        self._granted[ask.number] = ask.region
        self._start_polling()
        return granted

    def poll(self) -> None:
        """Move bytes, and take what came in band."""
        try:
            for message in self._agent.messages():
                self._close(msgspec.msgpack.decode(message, type=Closing))
        except (NixlError, msgspec.MsgspecError) as error:
            self.lose(str(error))

    def _close(self, closing: Closing) -> None:
        self._granted.pop(closing.number, None)
        if closing.notification is not None:
            self._line.post(Answered(closing.number, self._deliver(closing.notification) or ""))

    def withdraw(self, region: Region) -> None:
        """The region is offered no more. While bytes of it are under way, only the agent's end stops them."""
        if region.remote.key in self._granted.values():
            self.lose("a region was deregistered during a transfer")
        elif not self.lost:
            self._registered.remove(region)

    def lose(self, reason: str) -> None:
        """End the connection: from now on the peer reaches nothing by it."""
        if not self.lost:
            self.lost = reason
            self._agent.close()
            self._line.close()
