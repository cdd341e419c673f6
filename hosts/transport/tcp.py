"""One-sided reads and writes over TCP: a connection a peer and traffic class, made by the initiator.

The initiator's end numbers its operations and matches the answers; the target's end checks each
request against the regions it offers, and serves it without any other code of its host running.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque

import msgspec

from hosts.config import TransportConfig
from hosts.pacing import TokenBucket
from hosts.peer_input import ProtocolError
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
from hosts.transport.channel import Channel
from hosts.transport.entrance import Entrance, dial, mark_packets
from hosts.transport.wire import NOWHERE, Frame, Hello, Inlet, Kind, Outlet, decode_hello, encode

WINDOW_BYTES = 32 * 1024 * 1024
"""Most payload outstanding on a connection; a larger operation goes alone."""
WINDOW_OPERATIONS = 128
_WATCHES_PER_TIMEOUT = 4


class _Operation:
    """An operation from the call to its answer."""

    def __init__(
        self, kind: Kind, region: int, at: Strided, trailer: bytes, inlet: Inlet | None, outlet: Outlet | None
    ) -> None:
        self.kind = kind
        self.name = kind.name.lower() if at is not NOWHERE or kind is Kind.HELLO else "notify"
        self.region = region
        self.at = at
        self.trailer = trailer
        self.inlet = inlet
        self.outlet = outlet
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, peer: str, reason: str) -> None:
        if not self.answered.done():
            self.answered.set_exception(TransferError(peer, self.name, self.region, self.at.offset, reason))


class TcpConnection(Channel):
    """The initiator's end."""

    def __init__(self, sock: socket.socket, peer: str, pace: TokenBucket, timeout_s: float) -> None:
        self._waiting: deque[_Operation] = deque()
        self._outstanding: dict[int, _Operation] = {}
        self._outstanding_bytes = 0
        self._last_number = 0
        self._timeout_s = timeout_s
        self._watch_due: asyncio.TimerHandle | None = None
        self._progress = (0, 0)
        self._progress_at = 0.0
        super().__init__(sock, peer, pace, timeout_s)

    async def read(self, local: Region, local_at: Strided, remote: RemoteRegion, remote_at: Strided) -> None:
        """See `Connection.read`."""
        check_operation(self.peer, "read", local, local_at, remote, remote_at)
        inlet = Inlet(local, local_at)
        await self._perform(_Operation(Kind.READ, remote.key, remote_at, b"", inlet, None))

    async def write(
        self,
        local: Region,
        local_at: Strided,
        remote: RemoteRegion,
        remote_at: Strided,
        notify: bytes = b"",
    ) -> None:
        """See `Connection.write`."""
        check_operation(self.peer, "write", local, local_at, remote, remote_at)
        check_notification(self.peer, notify)
        outlet = Outlet(local, local_at)
        await self._perform(_Operation(Kind.WRITE, remote.key, remote_at, notify, None, outlet))

    async def notify(self, payload: bytes) -> None:
        """See `Connection.notify`."""
        check_notification(self.peer, payload)
        await self._perform(_Operation(Kind.WRITE, 0, NOWHERE, payload, None, None))

    async def greet(self, hello: Hello) -> None:
        """Introduce this host; `TransferError` if what answers is no transport of this version."""
        trailer = msgspec.msgpack.encode(hello)
        await self._perform(_Operation(Kind.HELLO, 0, NOWHERE, trailer, None, None))

    async def _perform(self, operation: _Operation) -> None:
        if self.lost is not None:
            operation.fail(self.peer, self.lost)
        else:
            self._waiting.append(operation)
            self._admit()
        try:
            await operation.answered
        except asyncio.CancelledError:
            self._abandon(operation)
            raise

    def _admit(self) -> None:
        """Send what the window has room for, in the order of the calls."""
        while self._waiting and self._has_room_for(self._waiting[0].at.nbytes):
            operation = self._waiting.popleft()
            if not self._outstanding:
                self._start_watch()
            self._last_number += 1
            self._outstanding[self._last_number] = operation
            self._outstanding_bytes += operation.at.nbytes
            head = encode(
                operation.kind, self._last_number, operation.region, operation.at, operation.trailer
            )
            self.send(head, operation.outlet)

    def _has_room_for(self, nbytes: int) -> bool:
        if not self._outstanding:
            return True
        fits = self._outstanding_bytes + nbytes <= WINDOW_BYTES
        return fits and len(self._outstanding) < WINDOW_OPERATIONS

    def _abandon(self, operation: _Operation) -> None:
        if operation in self._waiting:
            self._waiting.remove(operation)
        elif operation.inlet is not None:
            self.divert(operation.inlet)

    # --- answers -----------------------------------------------------------------------------

    def inlet_for(self, frame: Frame) -> Inlet:
        """The local side of the read that ``frame`` answers."""
        operation = self._outstanding.get(frame.operation)
        if operation is None or operation.inlet is None or frame.kind is not Kind.DATA:
            raise ProtocolError(f"{frame.kind.name} for operation {frame.operation}, which awaits none")
        if frame.payload_bytes != operation.at.nbytes:
            raise ProtocolError(f"{frame.payload_bytes} bytes for a read of {operation.at.nbytes}")
        return operation.inlet

    def on_frame(self, frame: Frame, trailer: bytes, inlet: Inlet | None) -> None:
        """Complete the operation that ``frame`` answers."""
        if frame.kind is Kind.FAILED and frame.operation == 0:
            return self.lose(f"the peer refused: {trailer.decode(errors='replace')}")
        operation = self._outstanding.pop(frame.operation, None)
        if operation is None:
            raise ProtocolError(f"{frame.kind.name} for operation {frame.operation}, not outstanding")
        self._outstanding_bytes -= operation.at.nbytes
        if frame.kind is Kind.FAILED:
            operation.fail(self.peer, trailer.decode(errors="replace"))
        elif frame.kind is not (Kind.DONE if operation.inlet is None else Kind.DATA):
            operation.fail(self.peer, f"answered with {frame.kind.name}")
            raise ProtocolError(f"{frame.kind.name} in answer to a {operation.name}")
        elif inlet is not None and inlet.region is None:
            operation.fail(self.peer, "the local region was deregistered during the transfer")
        elif not operation.answered.done():
            operation.answered.set_result(None)
        self._admit()

    def withdraw(self, region: Region) -> None:
        """See `Channel.withdraw`."""
        for operation in (*self._outstanding.values(), *self._waiting):
            if operation.inlet is not None and operation.inlet.region is region:
                self.divert(operation.inlet)
            elif operation.outlet is not None and operation.outlet.region is region:
                self.lose("a region was deregistered while it was being sent")
                return

    def on_lost(self, reason: str) -> None:
        """Fail everything outstanding."""
        if self._watch_due is not None:
            self._watch_due.cancel()
        for operation in (*self._outstanding.values(), *self._waiting):
            operation.fail(self.peer, reason)
        self._outstanding.clear()
        self._waiting.clear()

    # --- deadline ----------------------------------------------------------------------------

    def _start_watch(self) -> None:
        self._progress_at = self._loop.time()
        if self._watch_due is None:
            self._watch_due = self._loop.call_later(self._timeout_s / _WATCHES_PER_TIMEOUT, self._watch)

    def _watch(self) -> None:
        """Lose the connection when, with operations outstanding, no byte has passed for the timeout.

        Passed is what arrived here or was acknowledged by the peer's kernel, so that a long queue on
        a slow link is not taken for a dead peer.
        """
        self._watch_due = None
        if not self._outstanding:
            return
        now_at = self._loop.time()
        progress = (self.arrived_bytes(), self.delivered_bytes())
        if progress != self._progress:
            self._progress, self._progress_at = progress, now_at
        if now_at - self._progress_at >= self._timeout_s:
            return self.lose(f"no progress for {self._timeout_s:g} s (timeout_s)")
        self._watch_due = self._loop.call_later(self._timeout_s / _WATCHES_PER_TIMEOUT, self._watch)


class _Target(Channel):
    """The target's end."""

    def __init__(self, transport: TcpTransport, sock: socket.socket, peer: str) -> None:
        self._transport = transport
        self._fault: str | None = None
        self._greeted = False
        super().__init__(sock, peer, transport.pace, transport.timeout_s)
        self._greet_due = self._loop.call_later(
            transport.timeout_s, self.lose, f"no hello within {transport.timeout_s:g} s"
        )

    def _region(self, frame: Frame) -> Region | str:
        """The region that ``frame`` names, or why it may not be used like that."""
        region = self._transport.regions.get(frame.key)
        if region is None:
            return "no such region is registered"
        return frame.at.fault(region.remote.length) or region

    def inlet_for(self, frame: Frame) -> Inlet:
        """The pieces of an offered region, or nowhere, which `on_frame` then reports."""
        if frame.kind is not Kind.WRITE or not self._greeted:
            raise ProtocolError(f"a {frame.kind.name} frame where none is due")
        region = self._region(frame)
        self._fault = region if isinstance(region, str) else None
        return Inlet(None if isinstance(region, str) else region, frame.at)

    def on_frame(self, frame: Frame, trailer: bytes, inlet: Inlet | None) -> None:
        """Serve a request."""
        if frame.kind is Kind.HELLO:
            self._greet(frame, trailer)
        elif not self._greeted:
            raise ProtocolError(f"{frame.kind.name} before HELLO")
        elif len(self._queue) > WINDOW_OPERATIONS:
            raise ProtocolError(f"more than {WINDOW_OPERATIONS} requests outstanding")
        elif frame.kind is Kind.READ:
            region = self._region(frame)
            if isinstance(region, str):
                self._send_failed(frame.operation, region)
            else:
                whole = Strided(0, frame.at.nbytes)
                self.send(encode(Kind.DATA, frame.operation, at=whole), Outlet(region, frame.at))
        elif frame.kind is Kind.WRITE:
            self._finish_write(frame, trailer, inlet)
        else:
            raise ProtocolError(f"{frame.kind.name} from an initiator")

    def _greet(self, frame: Frame, trailer: bytes) -> None:
        hello = decode_hello(trailer)
        self._greet_due.cancel()
        self._greeted = True
        self.peer = hello.address
        mark_packets(self._sock, self._transport.classes[hello.traffic_class])
        self.send(encode(Kind.DONE, frame.operation))

    def _finish_write(self, frame: Frame, trailer: bytes, inlet: Inlet | None) -> None:
        fault = None
        if inlet is not None and inlet.region is None:
            fault = self._fault or "the region was deregistered during the transfer"
        elif trailer:
            fault = self._transport.deliver(self.peer, trailer)
        if fault is None:
            self.send(encode(Kind.DONE, frame.operation))
        else:
            self._send_failed(frame.operation, fault)

    def _send_failed(self, operation: int, reason: str) -> None:
        self.send(encode(Kind.FAILED, operation, trailer=reason.encode()))

    def withdraw(self, region: Region) -> None:
        """See `Channel.withdraw`."""
        super().withdraw(region)
        if any(outlet is not None and outlet.region is region for _, outlet in self._queue):
            self.lose("a region was deregistered with reads of it outstanding")

    def on_lost(self, reason: str) -> None:
        """Forget the connection: its operations fail at the initiator."""
        self._greet_due.cancel()
        self._transport.forget(self)


class TcpTransport:
    """An entrance for peers, the regions offered through it, and connections from and to peers."""

    def __init__(self, config: TransportConfig) -> None:
        self.timeout_s, self.classes = config.timeout_s, config.classes
        self.pace = TokenBucket(config.pace_bytes_per_s)
        self.regions: dict[int, Region] = {}
        self._config = config
        self._handler: NotificationHandler | None = None
        self._targets: set[_Target] = set()
        self._connections: dict[tuple[str, TrafficClass], TcpConnection] = {}
        self._dialling: dict[tuple[str, TrafficClass], asyncio.Lock] = {}
        self._closed = False
        self._entrance = Entrance.open(config, self._admit)
        self.address = self._entrance.address

    @classmethod
    async def open(cls, config: TransportConfig) -> TcpTransport:
        """Listen on a free port of ``config.bind_address``; raises `TransferError` if that cannot be done."""
        return cls(config)

    def register(self, buffer: memoryview | bytearray | Bytes) -> Region:
        """See `Transport.register`."""
        region = Region(buffer)
        self.regions[region.remote.key] = region
        return region

    def deregister(self, region: Region) -> None:
        """See `Transport.deregister`."""
        self.regions.pop(region.remote.key, None)
        region.registered = False
        for channel in (*self._targets, *self._connections.values()):
            channel.withdraw(region)

    def on_notification(self, handler: NotificationHandler) -> None:
        """See `Transport.on_notification`."""
        self._handler = handler

    async def connect(self, address: str, traffic_class: TrafficClass = "low") -> TcpConnection:
        """See `Transport.connect`. A connection that was lost is made anew."""
        peer = (address, traffic_class)
        async with self._dialling.setdefault(peer, asyncio.Lock()):
            connection = self._connections.get(peer)
            if connection is None or connection.lost is not None:
                connection = await self._dial(address, traffic_class)
                self._connections[peer] = connection
            return connection

    async def _dial(self, address: str, traffic_class: TrafficClass) -> TcpConnection:
        if self._closed:
            raise TransferError(address, "connect", 0, 0, "the transport is closed")
        sock = await dial(address, self._config, self.classes[traffic_class])
        connection = TcpConnection(sock, address, self.pace, self.timeout_s)
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.greet(Hello(self.address, traffic_class))
        except BaseException as error:
            connection.lose("the connection was not established")
            if not isinstance(error, TimeoutError):
                raise
            raise TransferError(address, "connect", 0, 0, f"no answer in {self.timeout_s:g} s") from error
        return connection

    def _admit(self, sock: socket.socket, peer: str) -> None:
        self._targets.add(_Target(self, sock, peer))

    def deliver(self, peer: str, payload: bytes) -> str | None:
        """Hand a notification to the handler; why that failed, or None."""
        return deliver(self._handler, peer, payload)

    def forget(self, target: _Target) -> None:
        """``target`` is closed."""
        self._targets.discard(target)

    async def close(self) -> None:
        """See `Transport.close`. A second call has nothing left to do."""
        if self._closed:
            return
        self._closed = True
        await self._entrance.close()
        for channel in (*self._targets, *self._connections.values()):
            channel.lose("the transport was closed")
        for region in self.regions.values():
            region.registered = False
        self.regions.clear()
        self._connections.clear()
