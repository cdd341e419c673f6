"""One-sided reads and writes between registered buffers: the interface every transport implements.

The model is RDMA's. A host registers a buffer and offers peers its `RemoteRegion`; a peer then
reads from and writes to it by offset, and no code of the offering host runs per transfer. A write
may carry a notification, delivered to the target's handler once the bytes are in place.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from hosts.config import TrafficClass as TrafficClass
from hosts.cuda.memory import DeviceBuffer

Bytes: TypeAlias = npt.NDArray[np.uint8]
NotificationHandler = Callable[[bytes], None]

MAX_NOTIFICATION_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)


class TransferError(Exception):
    """A transfer did not happen: with which peer, which operation, where in which region, and why."""

    def __init__(self, peer: str, operation: str, region: int, offset: int, reason: str) -> None:
        where = f", region {region:#x} at byte {offset}" if operation in ("read", "write") else ""
        super().__init__(f"{operation} with {peer}{where}: {reason}")
        self.peer = peer
        self.operation = operation
        self.region = region
        self.offset = offset
        self.reason = reason


class Strided(msgspec.Struct, frozen=True, array_like=True):
    """``count`` pieces of ``length`` bytes, ``stride`` bytes from start to start (MPI's vector type).

    A layer of n Full Blocks laid out [n, layers, layer_block_bytes] is one of these:
    ``Strided(layer * layer_block_bytes, layer_block_bytes, n, layers * layer_block_bytes)``.
    Pieces ascend and do not overlap; ``stride`` is ignored where there is one piece.
    """

    offset: int
    length: int
    count: int = 1
    stride: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in all pieces together."""
        return self.length * self.count

    @property
    def end(self) -> int:
        """Offset of the byte after the last piece."""
        return self.offset + (self.count - 1) * self.stride + self.length

    @property
    def contiguous(self) -> bool:
        """Whether the pieces form one run of bytes."""
        return self.count == 1 or self.stride == self.length

    def fault(self, region_bytes: int) -> str | None:
        """Why this does not describe bytes inside a region of ``region_bytes``, or None."""
        if self.offset < 0 or self.length < 1 or self.count < 1:
            return f"{self}: expected offset >= 0, length >= 1 and count >= 1"
        if self.count > 1 and self.stride < self.length:
            return f"{self}: pieces overlap, expected a stride of at least the length"
        if self.end > region_bytes:
            return f"{self} ends at byte {self.end}, beyond the region's {region_bytes} bytes"
        return None

    def pieces(self, buffer: Bytes) -> Bytes:
        """The pieces in ``buffer`` as a view of shape [count, length]; numpy checks the bounds too."""
        return np.ndarray(
            (self.count, self.length), np.uint8, buffer, self.offset, (self.stride or self.length, 1)
        )

    def run(self, buffer: Bytes) -> Bytes:
        """A contiguous descriptor's bytes in ``buffer``, as a flat view."""
        return buffer[self.offset : self.offset + self.nbytes]


class RemoteRegion(msgspec.Struct, frozen=True, array_like=True):
    """What a peer is offered: the region's ``key`` and length in bytes.

    The key is 63 unguessable bits or, where a device checks it, that device's. ``address`` is that of the
    first byte in the offering process, for transports that name memory so.
    """

    key: int
    length: int
    address: int = 0


class Region:
    """A registered buffer. Between registration and deregistration peers may read and write all of it."""

    def __init__(self, buffer: memoryview | bytearray | Bytes) -> None:
        view = np.frombuffer(buffer, np.uint8)
        if not view.flags.writeable:
            raise ValueError("register: the buffer is read-only, expected a writable one")
        self.view: Bytes = view
        self.remote = RemoteRegion(secrets.randbits(63), view.nbytes)
        self.registered = True

    def __repr__(self) -> str:
        return f"Region({self.remote.key:#x}, {self.remote.length} bytes)"


class Connection(Protocol):
    """Issues operations to one peer in one traffic class. Writes and notifications keep their order.

    Any number may be outstanding; each raises `TransferError` if it fails or the peer is silent for
    the transport's timeout. After a cancelled read no more bytes reach the local region; a cancelled
    write may still reach the remote one, with whatever the local region holds by then.
    """

    @property
    def peer(self) -> str:
        """The peer's address."""
        ...

    async def read(self, local: Region, local_at: Strided, remote: RemoteRegion, remote_at: Strided) -> None:
        """Remote bytes into the local region. Both sides need equal ``nbytes``; shapes may differ."""
        ...

    async def write(
        self,
        local: Region,
        local_at: Strided,
        remote: RemoteRegion,
        remote_at: Strided,
        notify: bytes = b"",
    ) -> None:
        """Local bytes into the remote region; done when they are in place there.

        ``notify``, if not empty, reaches the peer's handler after that, at most 1 MiB of it.
        """
        ...

    async def notify(self, payload: bytes) -> None:
        """Call the peer's handler with ``payload``, at most 1 MiB, after all earlier writes."""
        ...


class Transport(Protocol):
    """One host's end of the compute network: its regions, its connections, its notification handler."""

    @property
    def address(self) -> str:
        """What peers pass to `connect`."""
        ...

    def register(self, buffer: memoryview | bytearray | Bytes) -> Region:
        """Offer a writable, C-contiguous buffer to peers. The caller keeps it alive until `deregister`."""
        ...

    def deregister(self, region: Region) -> None:
        """Withdraw the offer. A transfer under way in the region fails."""
        ...

    async def connect(self, address: str, traffic_class: TrafficClass = "low") -> Connection:
        """The connection to that peer in that class: one each, made on the first call."""
        ...

    def on_notification(self, handler: NotificationHandler) -> None:
        """Call ``handler`` with every notification peers send; it must not block."""
        ...

    async def close(self) -> None:
        """Fail what is outstanding, close every connection, withdraw every region."""
        ...


@runtime_checkable
class RegistersDeviceMemory(Protocol):
    """What a transport can besides if it moves bytes from and to GPUs' memory without the CPU."""

    def register_device_memory(self, memory: DeviceBuffer) -> Region:
        """Offer GPU memory, whole host pages, like `Transport.register`; raises `TransferError` if the NIC
        cannot, `CudaError` if the GPU cannot."""
        ...


def check_operation(
    peer: str, operation: str, local: Region, local_at: Strided, remote: RemoteRegion, remote_at: Strided
) -> None:
    """Raise `TransferError` for what the initiator can know to be wrong before anything is sent."""
    sides = ((local.remote, local_at, "local"), (remote, remote_at, "remote"))
    for region, at, side in sides:
        if reason := at.fault(region.length):
            raise TransferError(peer, operation, region.key, at.offset, f"{side} side: {reason}")
    if local_at.nbytes != remote_at.nbytes:
        reason = f"{local_at.nbytes} bytes here, {remote_at.nbytes} there: expected equal sizes"
        raise TransferError(peer, operation, remote.key, remote_at.offset, reason)
    if not local.registered:
        reason = "the local region is not registered"
        raise TransferError(peer, operation, local.remote.key, local_at.offset, reason)


def check_notification(peer: str, payload: bytes) -> None:
    """Raise `TransferError` for a notification too long to send."""
    if len(payload) > MAX_NOTIFICATION_BYTES:
        reason = f"notification of {len(payload)} bytes, expected at most {MAX_NOTIFICATION_BYTES}"
        raise TransferError(peer, "notify", 0, 0, reason)


def deliver(handler: NotificationHandler | None, peer: str, payload: bytes) -> str | None:
    """Hand a notification to the handler; why that failed, or None."""
    if handler is None:
        return "the peer has no notification handler"
    try:
        handler(payload)
    except Exception as error:
        _log.exception("the notification handler failed on a message from %s", peer)
        return f"the peer's notification handler failed: {error!r}"
    return None
