"""One-sided reads and writes by RDMA verbs: reliable connections between registered buffers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import msgspec
from pyverbs.pyverbs_error import PyverbsError as LibraryError

from hosts.config import TransportConfig
from hosts.cuda.memory import DeviceBuffer
from hosts.line import Line
from hosts.pacing import TokenBucket
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
from hosts.transport.plan import Side, plan
from hosts.transport.rendezvous import Rendezvous, meet
from hosts.transport.verbs.device import Device, RegisteredMemory
from hosts.transport.verbs.endpoint import EndpointAddress
from hosts.transport.verbs.link import Link
from hosts.transport.verbs.port import PortError
from hosts.transport.verbs.send_queue import Operation
from hosts.transport.verbs.work_requests import Opcode

_VERSION = 1
_MAX_KEY = 2**32 - 1


class _Hello(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Initiator to target: who connects, in which class, and its endpoint."""

    version: int
    address: str
    traffic_class: TrafficClass
    mtu_bytes: int
    endpoint: EndpointAddress


class _Welcome(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: its endpoint, ready to send."""

    endpoint: EndpointAddress


class _Refused(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: why not."""

    reason: str


_Answer: Any = _Welcome | _Refused


class VerbsConnection:
    """The initiator's side. An error ends the link; the next call makes a new one, if so configured."""

    def __init__(self, transport: VerbsTransport, address: str, traffic_class: TrafficClass) -> None:
        self.peer = address
        self._transport, self._class = transport, traffic_class
        self._link: Link | None = None
        self._dialling, self._posting = asyncio.Lock(), asyncio.Lock()  # granted in the order of the calls

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
        async with self._posting:
            answered = await (await self.link()).send(payload)
        await self._until_taken(answered)

    async def _transfer(
        self,
        name: Literal["read", "write"],
        local: Region,
        local_at: Strided,
        remote: RemoteRegion,
        remote_at: Strided,
        notify: bytes = b"",
    ) -> None:
        assert isinstance(local, RegisteredMemory), "registered with this transport"
        async with self._posting:
            if self._transport.pace.bytes_per_s:
                # What is wrong takes no part of the rate.
                check_operation(self.peer, name, local, local_at, remote, remote_at)
                await self._transport.pace.take(local_at.nbytes)
            link = await self.link()
            check_operation(self.peer, name, local, local_at, remote, remote_at)
            operation = self._operation(name, local, local_at, remote, remote_at)
            link.post(operation)
            answered = await link.send(notify) if notify else None
        await link.finish(operation)
        if answered is not None:
            await self._until_taken(answered)

    def _operation(
        self,
        name: Literal["read", "write"],
        local: RegisteredMemory,
        local_at: Strided,
        remote: RemoteRegion,
        remote_at: Strided,
    ) -> Operation:
        here, there = Side(local.remote.address, local_at), Side(remote.address, remote_at)
        if remote.key > _MAX_KEY:
            reason = "no such region is registered: an RDMA key has 32 bits"
            raise TransferError(self.peer, name, remote.key, remote_at.offset, reason)
        return Operation(
            name=name,
            opcode=Opcode.READ if name == "read" else Opcode.WRITE,
            plan=plan(here, there, self._transport.device.max_entries),
            lkey=local.lkey,
            rkey=remote.key,
            region=remote.key,
            offset=remote_at.offset,
        )

    async def _until_taken(self, answered: asyncio.Future[str | None]) -> None:
        if reason := await answered:
            raise TransferError(self.peer, "notify", 0, 0, reason)

    async def link(self) -> Link:
        """The link, made anew if it was lost and that is wanted."""
        if self._link is None or self._link.lost:
            async with self._dialling:
                if self._link is None or (self._link.lost and self._transport.reconnects):
                    self._link = await self._transport.dial(self.peer, self._class)
        if self._link.lost:
            raise TransferError(self.peer, "connect", 0, 0, f"the connection was lost: {self._link.lost}")
        return self._link

    def withdraw(self, region: RegisteredMemory) -> None:
        """The region is being deregistered: what uses it must not go on."""
        if self._link is not None and not self._link.lost and self._link.uses(region.lkey):
            self._link.lose("the local region was deregistered during the transfer")

    def close(self, reason: str) -> None:
        """End the link."""
        if self._link is not None:
            self._link.lose(reason)


class VerbsTransport:
    """A device, the regions registered with it, and connections from and to peers."""

    def __init__(self, config: TransportConfig, device: Device) -> None:
        self.device, self.pace = device, TokenBucket(config.pace_bytes_per_s)
        self.reconnects = config.verbs.reconnect
        self._config = config
        self._handler: NotificationHandler | None = None
        self._regions: set[RegisteredMemory] = set()
        self._connections: dict[tuple[str, TrafficClass], VerbsConnection] = {}
        self._targets: set[Link] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def open(cls, config: TransportConfig) -> VerbsTransport:
        """Open the port that belongs to ``config.bind_address`` and listen for peers there."""
        try:
            device = Device(config.bind_address, config)
        except (PortError, LibraryError) as error:
            raise TransferError(config.bind_address, "open", 0, 0, str(error)) from error
        transport = cls(config, device)
        try:
            transport._rendezvous = Rendezvous(config, transport._serve)
        except TransferError:
            device.close()
            raise
        transport.address = transport._rendezvous.address
        return transport

    _rendezvous: Rendezvous
    address: str

    def register(self, buffer: memoryview | bytearray | Bytes) -> Region:
        """See `Transport.register`."""
        region = self.device.register(buffer)
        self._regions.add(region)
        return region

    def register_device_memory(self, memory: DeviceBuffer) -> Region:
        """See `RegistersDeviceMemory`."""
        try:
            region = self.device.register_device_memory(memory)
        except PortError as error:
            raise TransferError(self.address, "register", 0, 0, str(error)) from error
        self._regions.add(region)
        return region

    def deregister(self, region: Region) -> None:
        """See `Transport.deregister`."""
        assert isinstance(region, RegisteredMemory), "registered with this transport"
        for connection in self._connections.values():
            connection.withdraw(region)
        self._regions.discard(region)
        region.close()

    async def connect(self, address: str, traffic_class: TrafficClass = "low") -> VerbsConnection:
        """See `Transport.connect`."""
        if self._closed:
            raise TransferError(address, "connect", 0, 0, "the transport is closed")
        key = (address, traffic_class)
        connection = self._connections.setdefault(key, VerbsConnection(self, address, traffic_class))
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
            connection.close("the transport was closed")
        await self._rendezvous.close()
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for region in self._regions:
            region.close()
        self._regions.clear()
        self._connections.clear()
        self.device.close()

    # --- connecting --------------------------------------------------------------------------

    async def dial(self, address: str, traffic_class: TrafficClass) -> Link:
        """A new link to the peer at ``address``."""
        if self._closed:
            raise TransferError(address, "connect", 0, 0, "the transport is closed")
        line = await meet(address, self._config)
        try:
            link = Link(self.device, address, line, self._config.timeout_s, self._deliver_from(address))
        except (LibraryError, MemoryError) as error:
            line.close()
            raise TransferError(address, "connect", 0, 0, str(error)) from error
        try:
            async with asyncio.timeout(self._config.timeout_s):
                mtu_bytes = self._config.verbs.mtu_bytes
                await line.send(_Hello(_VERSION, self.address, traffic_class, mtu_bytes, link.address))
                answer: _Welcome | _Refused = await line.receive(_Answer)
            if isinstance(answer, _Refused):
                raise ValueError(f"the peer refused: {answer.reason}")
            link.connect(answer.endpoint, self._config.classes[traffic_class])
        except BaseException as error:
            link.lose("the connection was not established")
            if not isinstance(error, OSError | EOFError | ValueError | LibraryError | PortError):
                raise
            reason = str(error) or f"no answer in {self._config.timeout_s:g} s"
            raise TransferError(address, "connect", 0, 0, reason) from error
        self._watch(link.until_gone())
        return link

    async def _serve(self, line: Line) -> None:
        """The target's side of one connection, from its hello to its end."""
        async with asyncio.timeout(self._config.timeout_s):
            hello = await line.receive(_Hello)
            if refused := self._refusal(hello):
                return await line.send(_Refused(refused))
            link: Link | None = None
            try:
                deliver_from = self._deliver_from(hello.address)
                link = Link(self.device, hello.address, line, self._config.timeout_s, deliver_from)
                link.connect(hello.endpoint, self._config.classes[hello.traffic_class])
            except (LibraryError, MemoryError, PortError) as error:
                await line.send(_Refused(str(error)))
                if link is not None:
                    link.lose(str(error))
                return
            self._targets.add(link)
        try:
            await line.send(_Welcome(link.address))
            await link.until_gone()
        finally:
            self._targets.discard(link)
            link.lose("the transport was closed")

    def _refusal(self, hello: _Hello) -> str | None:
        if hello.version != _VERSION:
            return f"version {hello.version} of the rendezvous, this is {_VERSION}: install the same release"
        if len(hello.endpoint.queue_pairs) != self._config.verbs.queue_pairs:
            found, here = len(hello.endpoint.queue_pairs), self._config.verbs.queue_pairs
            return f"{found} queue pairs a peer, here {here}: configure both ends alike"
        if hello.mtu_bytes != self._config.verbs.mtu_bytes:
            found, here = hello.mtu_bytes, self._config.verbs.mtu_bytes
            return (
                f"MTU mismatch: mtu_bytes {found} there, {here} on {self.device.port} here; configure both "
                "ends alike"
            )
        return None

    def _deliver_from(self, peer: str) -> Callable[[bytes], str | None]:
        return lambda payload: deliver(self._handler, peer, payload)

    def _watch(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
