"""The transport between endpoints of one process: the smallest there is, for tests and as a reference."""

from __future__ import annotations

import asyncio
import itertools
from weakref import WeakValueDictionary

from hosts.config import TransportConfig
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

_numbers = itertools.count()


class MemoryConnection:
    """Performs each operation as one copy, in the order of the calls."""

    def __init__(self, initiator: MemoryTransport, target: MemoryTransport) -> None:
        self.peer = target.address
        self._initiator = initiator
        self._target = target
        self._turn = asyncio.Lock()  # granted in the order of the calls

    async def read(self, local: Region, local_at: Strided, remote: RemoteRegion, remote_at: Strided) -> None:
        """See `Connection.read`."""
        check_operation(self.peer, "read", local, local_at, remote, remote_at)
        async with self._turn:
            await self._target.pace.take(remote_at.nbytes)
            source = self._offered("read", remote, remote_at)
            check_operation(self.peer, "read", local, local_at, remote, remote_at)
            _copy(source.view, remote_at, local.view, local_at)

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
        async with self._turn:
            await self._initiator.pace.take(local_at.nbytes)
            target = self._offered("write", remote, remote_at)
            check_operation(self.peer, "write", local, local_at, remote, remote_at)
            _copy(local.view, local_at, target.view, remote_at)
            if notify:
                self._deliver("write", remote, remote_at, notify)

    async def notify(self, payload: bytes) -> None:
        """See `Connection.notify`."""
        check_notification(self.peer, payload)
        async with self._turn:
            await asyncio.sleep(0)  # the handler never runs inside its caller's step
            self._deliver("notify", RemoteRegion(0, 0), Strided(0, 0), payload)

    def _offered(self, operation: str, remote: RemoteRegion, at: Strided) -> Region:
        self._check_open(operation, remote, at)
        region = self._target.regions.get(remote.key)
        reason = "no such region is registered" if region is None else at.fault(region.remote.length)
        if region is None or reason is not None:
            raise TransferError(self.peer, operation, remote.key, at.offset, str(reason))
        return region

    def _deliver(self, operation: str, remote: RemoteRegion, at: Strided, payload: bytes) -> None:
        self._check_open(operation, remote, at)
        if reason := deliver(self._target.handler, self._initiator.address, payload):
            raise TransferError(self.peer, operation, remote.key, at.offset, reason)

    def _check_open(self, operation: str, remote: RemoteRegion, at: Strided) -> None:
        for transport, reason in (
            (self._initiator, "the transport was closed"),
            (self._target, "the peer closed the connection"),
        ):
            if transport.closed:
                raise TransferError(self.peer, operation, remote.key, at.offset, reason)


class MemoryTransport:
    """An endpoint that other endpoints of this process reach by its address."""

    def __init__(self, config: TransportConfig) -> None:
        self.address = f"memory:{next(_numbers)}"
        self.pace = TokenBucket(config.pace_bytes_per_s)
        self.regions: dict[int, Region] = {}
        self.handler: NotificationHandler | None = None
        self.closed = False
        self._connections: dict[tuple[str, TrafficClass], MemoryConnection] = {}
        _endpoints[self.address] = self

    def register(self, buffer: memoryview | bytearray | Bytes) -> Region:
        """See `Transport.register`."""
        region = Region(buffer)
        self.regions[region.remote.key] = region
        return region

    def deregister(self, region: Region) -> None:
        """See `Transport.deregister`."""
        self.regions.pop(region.remote.key, None)
        region.registered = False

    async def connect(self, address: str, traffic_class: TrafficClass = "low") -> MemoryConnection:
        """See `Transport.connect`."""
        target = _endpoints.get(address)
        if self.closed or target is None:
            reason = "the transport is closed" if self.closed else "no such endpoint in this process"
            raise TransferError(address, "connect", 0, 0, reason)
        return self._connections.setdefault((address, traffic_class), MemoryConnection(self, target))

    def on_notification(self, handler: NotificationHandler) -> None:
        """See `Transport.on_notification`."""
        self.handler = handler

    async def close(self) -> None:
        """See `Transport.close`."""
        self.closed = True
        for region in self.regions.values():
            region.registered = False
        self.regions.clear()
        self._connections.clear()
        _endpoints.pop(self.address, None)


_endpoints: WeakValueDictionary[str, MemoryTransport] = WeakValueDictionary()


def _copy(source: Bytes, source_at: Strided, target: Bytes, target_at: Strided) -> None:
    target_at.pieces(target)[...] = source_at.pieces(source).reshape(target_at.count, target_at.length)
