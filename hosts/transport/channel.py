"""A TCP socket that carries frames: receives payload where it belongs, sends it from where it lies.

asyncio's own transports copy what a socket does not take at once, and hand over one read per loop
iteration; here the socket is read and written directly, as long as it is ready and for at most
`BURST_BYTES` at a time, and the payload is copied by nobody but the kernel.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import logging
import socket
import termios
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from hosts.pacing import TokenBucket
from hosts.peer_input import ProtocolError
from hosts.transport.base import Region
from hosts.transport.wire import (
    CHUNK_BYTES,
    DISCARDED,
    HEADER_BYTES,
    STAGING_BYTES,
    Frame,
    Inlet,
    Kind,
    Outlet,
    decode,
    encode,
)

_log = logging.getLogger(__name__)

BURST_BYTES = 2 * 1024 * 1024
"""Most that one readiness event moves: about half a millisecond of the event loop on loopback."""
WAKE_BYTES = 512 * 1024
"""Inside a payload, wake when this much has arrived, not for every segment (socket(7), SO_RCVLOWAT). With a
quarter of it, 64 MiB on loopback arrive at 0.5 to 0.7 times the rate, for a third more CPU time."""
PACED_CHUNK_BYTES = 64 * 1024
COALESCE_FROM_BYTES = 16 * 1024


class Channel(ABC):
    """Frames over one connected socket, which it owns. The two ends of a connection subclass it."""

    def __init__(self, sock: socket.socket, peer: str, pace: TokenBucket, timeout_s: float) -> None:
        self.peer = peer
        self.lost: str | None = None
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._pace = pace
        self._staging = (np.empty(STAGING_BYTES, np.uint8), np.empty(STAGING_BYTES, np.uint8))
        self._inlet: Inlet | None = None
        self._received_bytes = 0
        self._wake_bytes = 1
        self._queue: deque[tuple[bytes, Outlet | None]] = deque()
        self._outlet: Outlet | None = None
        self._unsent: list[memoryview] = []
        self._sent_bytes = 0
        self._awaits_writable = False
        self._paced_flush: asyncio.TimerHandle | None = None
        self._sending = self._transmit()
        self._receiving = self._receive()
        self._wanted = next(self._receiving)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout_s * 1000)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._loop.add_reader(sock, self._on_readable)

    @abstractmethod
    def inlet_for(self, frame: Frame) -> Inlet:
        """Where the payload of ``frame`` goes."""

    @abstractmethod
    def on_frame(self, frame: Frame, trailer: bytes, inlet: Inlet | None) -> None:
        """``frame`` has arrived whole, its payload (if it has one) by way of ``inlet``."""

    @abstractmethod
    def on_lost(self, reason: str) -> None:
        """The channel is closed, for ``reason``."""

    def send(self, head: bytes, outlet: Outlet | None = None) -> None:
        """Queue a frame: header and trailer, and the payload that ``outlet`` gathers when its turn comes."""
        if self.lost is not None:
            return
        self._queue.append((head, outlet))
        if not self._awaits_writable and self._paced_flush is None:
            self._flush()

    def lose(self, reason: str) -> None:
        """Close the channel at once. What is queued is not sent."""
        if self.lost is not None:
            return
        self.lost = reason
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        if self._paced_flush is not None:
            self._paced_flush.cancel()
        self._sock.close()
        self._queue.clear()
        self._unsent.clear()
        self._wanted = memoryview(b"")
        self.on_lost(reason)

    def divert(self, inlet: Inlet) -> None:
        """Let no more bytes reach the region of ``inlet``, not even those of the frame being received."""
        inlet.shut()
        if inlet is self._inlet:
            self._wanted = DISCARDED[: len(self._wanted)]

    def withdraw(self, region: Region) -> None:
        """``region`` is no longer registered: neither read from it nor write to it from now on."""
        if self._inlet is not None and self._inlet.region is region:
            self.divert(self._inlet)
        if self._outlet is not None and self._outlet.region is region:
            self.lose("a region was deregistered while it was being sent")

    def arrived_bytes(self) -> int:
        """Bytes received, those included that are not read yet (tcp(7), SIOCINQ)."""
        return self._received_bytes + self._queued_bytes(termios.FIONREAD)

    def delivered_bytes(self) -> int:
        """Bytes sent that the peer's kernel has acknowledged (tcp(7), SIOCOUTQ)."""
        return self._sent_bytes - self._queued_bytes(termios.TIOCOUTQ)

    def _queued_bytes(self, request: int) -> int:
        queued = array.array("i", [0])
        fcntl.ioctl(self._sock, request, queued)
        return queued[0]

    # --- receiving ---------------------------------------------------------------------------

    def _receive(self) -> Iterator[memoryview]:
        header = bytearray(HEADER_BYTES)
        while True:
            yield memoryview(header)
            frame = decode(header)
            trailer = bytearray(frame.trailer_bytes)
            if trailer:
                yield memoryview(trailer)
            inlet = None
            if frame.payload_bytes:
                inlet = self._inlet = self.inlet_for(frame)
                yield from inlet.chunks(self._staging[0])
                self._inlet = None
            self.on_frame(frame, bytes(trailer), inlet)

    def _on_readable(self) -> None:
        budget_bytes = BURST_BYTES
        try:
            while budget_bytes > 0 and self.lost is None:
                received = self._sock.recv_into(self._wanted)
                if not received:
                    return self.lose("the peer closed the connection")
                self._received_bytes += received
                budget_bytes -= received
                if received < len(self._wanted):
                    self._wanted = self._wanted[received:]
                else:
                    self._wanted = next(self._receiving)
        except BlockingIOError:
            pass  # all that has arrived is taken; the loop says when there is more
        except ProtocolError as error:
            return self._refuse(str(error))
        except OSError as error:
            return self.lose(error.strerror or str(error))
        if self.lost is None:
            self._set_wake_bytes()

    def _set_wake_bytes(self) -> None:
        wanted_bytes = len(self._wanted)
        wake_bytes = min(wanted_bytes, WAKE_BYTES) if wanted_bytes >= COALESCE_FROM_BYTES else 1
        if wake_bytes != self._wake_bytes:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake_bytes)
            self._wake_bytes = wake_bytes

    def _refuse(self, reason: str) -> None:
        _log.warning("closing the connection with %s: %s", self.peer, reason)
        if not self._unsent and self._outlet is None:
            self.send(encode(Kind.FAILED, 0, trailer=reason.encode()))
            # What is left unread would turn the close into a reset, and that drops the reason.
            with suppress(OSError):
                self._sock.recv_into(DISCARDED)
        self.lose(reason)

    # --- sending -----------------------------------------------------------------------------

    def _transmit(self) -> Iterator[list[memoryview]]:
        limit_bytes = PACED_CHUNK_BYTES if self._pace.bytes_per_s else CHUNK_BYTES
        while True:
            if not self._queue:
                yield []
                continue
            head, self._outlet = self._queue.popleft()
            ahead = [memoryview(head)]
            if self._outlet is not None:
                for chunk in self._outlet.chunks(self._staging[1], limit_bytes):
                    yield [*ahead, chunk]
                    ahead.clear()
                self._outlet = None
            else:
                yield ahead

    def _flush(self) -> None:
        self._paced_flush = None
        budget_bytes = BURST_BYTES
        try:
            while budget_bytes > 0:
                if not self._unsent:
                    self._unsent = next(self._sending)
                    if not self._unsent:
                        return self._await_writable(False)
                    if self._is_held_back():
                        return self._await_writable(False)
                sent = self._sock.sendmsg(self._unsent)
                self._sent_bytes += sent
                budget_bytes -= sent
                self._drop_sent(sent)
        except BlockingIOError:
            pass  # the socket is full; the loop says when it is not
        except OSError as error:
            return self.lose(error.strerror or str(error))
        self._await_writable(True)

    def _is_held_back(self) -> bool:
        now_at = self._loop.time()
        passed_at = self._pace.reserve(sum(map(len, self._unsent)), now_at)
        if passed_at > now_at:
            self._paced_flush = self._loop.call_at(passed_at, self._flush)
        return self._paced_flush is not None

    def _drop_sent(self, sent_bytes: int) -> None:
        unsent = self._unsent
        while unsent and sent_bytes >= len(unsent[0]):
            sent_bytes -= len(unsent.pop(0))
        if sent_bytes:
            unsent[0] = unsent[0][sent_bytes:]

    def _await_writable(self, wanted: bool) -> None:
        if wanted and not self._awaits_writable:
            self._loop.add_writer(self._sock, self._flush)
        elif self._awaits_writable and not wanted:
            self._loop.remove_writer(self._sock)
        self._awaits_writable = wanted
