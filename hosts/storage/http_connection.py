"""One HTTP/1.1 connection that receives a range straight into the reader's buffer (RFC 9110, RFC 9112)."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from typing import NamedTuple

_HEAD_BYTES = 16 * 1024
_WAKE_BYTES = 128 * 1024
"""Inside a body, wake when this much has arrived, not for every segment (socket(7), SO_RCVLOWAT)."""
_SEND_BYTES = 256 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)
"""What a server has not taken when the connection, or this process, ends is forgotten (socket(7)). Else the
kernel goes on sending it, and a run that is over and cleaned up after stores an object."""
_END_OF_HEAD = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_FIELD = re.compile(rb"\r\n(content-length|content-range|connection|transfer-encoding):[ \t]*([^\r]*)", re.I)
_CONTENT_RANGE = re.compile(rb"bytes (?:(\d+)-\d+|\*)/(\d+)")


class MalformedResponseError(Exception):
    """The server answered with what is not HTTP/1.1, or with more of it than this client speaks."""


class Request(NamedTuple):
    """A request ready to send. ``into`` takes the body of a 206 of exactly its size, and no other."""

    head: bytes
    body: memoryview = memoryview(b"")
    into: memoryview = memoryview(b"")


class Response(NamedTuple):
    """A response's head; ``range_start`` and ``object_bytes`` are -1 where it does not tell."""

    status: int
    body_bytes: int
    range_start: int
    object_bytes: int
    keeps_alive: bool


class HttpConnection:
    """Serves one exchange at a time. No byte may be missing for longer than ``timeout_s``."""

    def __init__(self, server: tuple[str, int], timeout_s: float) -> None:
        self.answered = False
        self.received_bytes = 0
        self._server = server
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._wake_bytes = 1

    async def exchange(self, request: Request) -> Response:
        """Send ``request`` and receive the answer, of a 206 the body, too.

        ``received_bytes`` counts what has arrived in ``into``. Raises OSError (TimeoutError
        included), EOFError or `MalformedResponseError`; then, and when the answer does not say that
        the connection stays, it is of no more use.
        """
        self.answered = False
        async with asyncio.timeout(self._timeout_s) as deadline:
            sock = self._sock or await self._dial()
            await self._loop.sock_sendall(sock, request.head)
            for first in range(0, len(request.body), _SEND_BYTES):
                await self._loop.sock_sendall(sock, request.body[first : first + _SEND_BYTES])
                deadline.reschedule(self._loop.time() + self._timeout_s)
            response, rest = await self._receive_head(sock)
            into = request.into
            wanted = response.status == 206 and response.body_bytes == len(into)
            if not wanted:
                # An error's page is not read: it is shorter to close, unless it is here already.
                whole = len(rest) == response.body_bytes
                return response._replace(keeps_alive=response.keeps_alive and whole)
            into[: len(rest)] = rest
            self.received_bytes += len(rest)
            into = into[len(rest) :]
            while into:
                received = await self._receive_some(sock, into)
                deadline.reschedule(self._loop.time() + self._timeout_s)
                self.received_bytes += received
                into = into[received:]
            return response

    def close(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    async def _dial(self) -> socket.socket:
        # The socket's one owner from its first moment on, so that close() frees it whatever happens.
        family, kind, protocol, _, address = (
            await self._loop.getaddrinfo(*self._server, type=socket.SOCK_STREAM)
        )[0]
        self._sock = sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        await self._loop.sock_connect(sock, address)
        return sock

    async def _receive_head(self, sock: socket.socket) -> tuple[Response, memoryview]:
        """The parsed head, and the bytes of the body that came with it."""
        buffer = memoryview(bytearray(_HEAD_BYTES))
        filled, end = 0, -1
        while end < 0:
            if filled == _HEAD_BYTES:
                raise MalformedResponseError(f"a response head longer than {_HEAD_BYTES} bytes")
            filled += await self._receive_some(sock, buffer[filled:], wake_bytes=1)
            self.answered = True
            end = bytes(buffer[:filled]).find(_END_OF_HEAD)
        rest = buffer[end + len(_END_OF_HEAD) : filled]
        response = _parse_head(bytes(buffer[: end + 2]))
        if len(rest) > response.body_bytes:
            raise MalformedResponseError(f"{len(rest)} bytes of body, {response.body_bytes} announced")
        return response, rest

    async def _receive_some(
        self, sock: socket.socket, into: memoryview, wake_bytes: int = _WAKE_BYTES
    ) -> int:
        wake_bytes = min(wake_bytes, len(into))
        if wake_bytes != self._wake_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake_bytes)
            self._wake_bytes = wake_bytes
        received = await self._loop.sock_recv_into(sock, into)
        if not received:
            raise EOFError("the server closed the connection before the end of its answer")
        return received


def _parse_head(head: bytes) -> Response:
    status = _STATUS.match(head)
    if status is None:
        raise MalformedResponseError(f"the answer starts with {head[:40]!r}, expected HTTP/1.1 and a status")
    fields = {name.lower(): value.strip().lower() for name, value in _FIELD.findall(head)}
    code = int(status[1])
    length = b"0" if code == 204 else fields.get(b"content-length", b"")
    if b"transfer-encoding" in fields or not length.isdigit():
        raise MalformedResponseError(f"status {code} without a Content-Length")
    content_range = _CONTENT_RANGE.fullmatch(fields.get(b"content-range", b""))
    start, total = content_range.groups(b"-1") if content_range else (b"-1", b"-1")
    keeps_alive = fields.get(b"connection", b"keep-alive") != b"close" and head.startswith(b"HTTP/1.1")
    return Response(code, int(length), int(start), int(total), keeps_alive)
