"""One-sided reads and writes by NIXL over UCX, an agent a connection at each end.

An agent of its own makes a connection's end certain: closing it frees its sockets or queue pairs and its
keys, so nothing of that peer's reaches memory any more, and other connections go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hosts.config import TransportConfig
from hosts.cuda.memory import DeviceBuffer
from hosts.line import Line
from hosts.nixl_agent import POLL_S, NixlError
from hosts.pacing import TokenBucket
from hosts.ticks import Ticks
from hosts.transport.base import (
    Bytes,
    NotificationHandler,
    Region,
    RemoteRegion,
    Strided,
    TrafficClass,
    TransferError,
    check_notification,
    check_operation,
    deliver,
)
from hosts.transport.nixl.initiator import InitiatorLink
from hosts.transport.nixl.memory import DeviceRegion
from hosts.transport.nixl.messages import (
    VERSION,
    Greeting,
    Hello,
    OperationName,
    Refused,
    Welcome,
)
from hosts.transport.nixl.target import TargetLink
from hosts.transport.nixl.ucx import open_agent
from hosts.transport.rendezvous import Rendezvous, meet


class NixlConnection:
    """The initiator's side. An error of NIXL's ends the link; the next call makes a new one."""

    def __init__(self, transport: NixlTransport, address: str, traffic_class: TrafficClass) -> None:
        self.peer = address
        self._transport, self._class = transport, traffic_class
        self._link: InitiatorLink | None = None
        self._dialling = asyncio.Lock()

    async def read(self, local: Region, local_at: Strided, remote: RemoteRegion, remote_at: Strided) -> None:
        """See `Connection.read`."""
        await self._transfer("read", local, local_at, remote, remote_at)

    async def write(
        self,
        local: Region,
        local_at: Strided,
        remote: RemoteRegion,
        remote_at: Strided,
        notify: bytes = b"",
    ) -> None:
        """See `Connection.write`."""
        check_notification(self.peer, notify)
        await self._transfer("write", local, local_at, remote, remote_at, notify)

    async def notify(self, payload: bytes) -> None:
        """See `Connection.notify`."""
        check_notification(self.peer, payload)
        link = await self.link()
        await link.finish(link.notify(payload))

    async def _transfer(
        self,
        name: OperationName,
        local: Region,
        local_at: Strided,
        remote: RemoteRegion,
        remote_at: Strided,
        notify: bytes = b"",
    ) -> None:
        check_operation(self.peer, name, local, local_at, remote, remote_at)
        link = await self.link()
        check_operation(self.peer, name, local, local_at, remote, remote_at)
        if name == "read":
            operation = link.read(local, local_at, remote, remote_at)
        else:
            operation = link.write(local, local_at, remote, remote_at, notify)
        await link.finish(operation)

    async def link(self) -> InitiatorLink:
        """The link, made anew if it was lost."""
        if self._link is None or self._link.lost:
            async with self._dialling:
                if self._link is None or self._link.lost:
                    self._link = await self._transport.dial(self.peer, self._class)
        return self._link

    def withdraw(self, region: Region) -> None:
        """The local region is being deregistered."""
        if self._link is not None:
            self._link.withdraw(region)

    def poll(self) -> bool:
        """Move on what is outstanding; whether anything is."""
        if self._link is None or not self._link.busy:
            return False
        self._link.poll()
        return self._link.busy

    async def close(self, reason: str) -> None:
        """End the link."""
        if self._link is not None:
            self._link.lose(reason)
            await self._link.ended()


class NixlTransport:
    """The regions offered, and connections from and to peers."""

    def __init__(self, config: TransportConfig) -> None:
        self._config = config
        self._pace = TokenBucket(config.pace_bytes_per_s)
        self._handler: NotificationHandler | None = None
        self._regions: dict[int, Region] = {}
        self._connections: dict[tuple[str, TrafficClass], NixlConnection] = {}
        self._targets: set[TargetLink] = set()
        self._closed = False

    @classmethod
    async def open(cls, config: TransportConfig) -> NixlTransport:
        """Listen for peers at ``config.bind_address``; `TransferError` if NIXL cannot be used there."""
        try:
            # The process's first agent loads UCX, half a second that no peer should have to wait for.
            open_agent(config.bind_address, config.classes["low"]).close()
        except NixlError as error:
            raise TransferError(config.bind_address, "open", 0, 0, str(error)) from error
        transport = cls(config)
        transport._rendezvous = Rendezvous(config, transport._serve)
        transport.address = transport._rendezvous.address
        transport._ticks = Ticks(POLL_S, transport._poll)
        return transport

    _rendezvous: Rendezvous
    _ticks: Ticks
    address: str

    def register(self, buffer: memoryview | bytearray | Bytes) -> Region:
        """See `Transport.register`."""
        return self._offer(Region(buffer))

    def register_device_memory(self, memory: DeviceBuffer) -> Region:
        """See `RegistersDeviceMemory`. That UCX cannot reach GPUs shows in the first operation, as an
        error."""
        return self._offer(DeviceRegion(memory))

    def _offer(self, region: Region) -> Region:
        self._regions[region.remote.key] = region
        return region

    def deregister(self, region: Region) -> None:
        """See `Transport.deregister`."""
        self._regions.pop(region.remote.key, None)
        region.registered = False
        for connection in self._connections.values():
            connection.withdraw(region)
        for link in tuple(self._targets):
            link.withdraw(region)

    async def connect(self, address: str, traffic_class: TrafficClass = "low") -> NixlConnection:
        """See `Transport.connect`."""
        key = (address, traffic_class)
        connection = self._connections.setdefault(key, NixlConnection(self, address, traffic_class))
        await connection.link()
        return connection

    def on_notification(self, handler: NotificationHandler) -> None:
        """See `Transport.on_notification`."""
        self._handler = handler

    async def close(self) -> None:
        """See `Transport.close`. A second call has nothing left to do."""
        if self._closed:
            return
        self._closed = True
        for connection in self._connections.values():
            await connection.close("the transport was closed")
        await self._rendezvous.close()
        self._ticks.close()
        for region in self._regions.values():
            region.registered = False
        self._regions.clear()
        self._connections.clear()

    def _poll(self) -> bool:
        busy = [connection.poll() for connection in self._connections.values()]
        for link in tuple(self._targets):
            if link.busy:
                link.poll()
                busy.append(link.busy)
        return any(busy)

    # --- connecting --------------------------------------------------------------------------

    async def dial(self, address: str, traffic_class: TrafficClass) -> InitiatorLink:
        """A new link to the peer at ``address``."""
        if self._closed:
            raise TransferError(address, "connect", 0, 0, "the transport is closed")
        config = self._config
        line = await meet(address, config)
        agent = None
        try:
            agent = open_agent(config.bind_address, config.classes[traffic_class])
            async with asyncio.timeout(config.timeout_s):
                await line.send(Hello(VERSION, self.address, traffic_class, agent.description()))
                answer: Welcome | Refused = await line.receive(Greeting)
            if isinstance(answer, Refused):
                raise ValueError(f"the peer refused: {answer.reason}")
            target = agent.load(answer.description)
        except BaseException as error:
            line.close()
            if agent is not None:
                agent.close()
            if not isinstance(error, OSError | EOFError | ValueError | NixlError):
                raise
            reason = str(error) or f"no answer in {config.timeout_s:g} s"
            raise TransferError(address, "connect", 0, 0, reason) from error
        return InitiatorLink(agent, line, address, target, self._pace, config.timeout_s, self._ticks.start)

    async def _serve(self, line: Line) -> None:
        """The target's side of one connection, from its hello to its end."""
        async with asyncio.timeout(self._config.timeout_s):
            hello = await line.receive(Hello)
            if hello.version != VERSION:
                found = f"version {hello.version} of the rendezvous, this is {VERSION}"
                return await line.send(Refused(f"{found}: install the same release"))
            try:
                agent = open_agent(self._config.bind_address, self._config.classes[hello.traffic_class])
            except NixlError as error:
                return await line.send(Refused(str(error)))
            try:
                initiator = agent.load(hello.description)
            except NixlError as error:
                agent.close()
                return await line.send(Refused(str(error)))
        deliver_from = self._deliver_from(hello.address)
        link = TargetLink(agent, line, initiator, self._regions, deliver_from, self._pace, self._ticks.start)
        self._targets.add(link)
        try:
            await line.send(Welcome(agent.description()))
            await link.serve()
        finally:
            self._targets.discard(link)
            link.lose("the transport was closed")

    def _deliver_from(self, peer: str) -> Callable[[bytes], str | None]:
        return lambda payload: deliver(self._handler, peer, payload)
