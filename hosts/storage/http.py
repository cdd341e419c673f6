"""An HTTP/1.1 server as the store: ranges by GET (RFC 9110, 14), objects by PUT, trees by DELETE (RFC 4918).

A client of its own, because of the agents' CPU on a shared machine: the body is received into the
caller's buffer, and the process wakes for 128 KiB, not for every segment. Measured on loopback in
ranges of 256 KiB: 0.45 s of CPU a GB, obstore 1.0; on a 200 Mbit/s link that delivers segments one
by one, waking for 128 KiB takes a sixth of the CPU of waking for each.
"""

from __future__ import annotations

import asyncio
import os
from urllib.parse import urlsplit

from hosts.config import StorageConfig
from hosts.storage.base import Data, StorageError, check_key, check_range, short_read
from hosts.storage.http_connection import HttpConnection, MalformedResponseError, Request, Response

_WRITE_STREAMS = 2
_OPERATIONS = {"GET": "read", "PUT": "write", "DELETE": "delete"}
_NO_BYTES = memoryview(b"")


class HttpStorage:
    """Objects below ``config.url``; connections are kept alive and used by one request at a time."""

    def __init__(self, config: StorageConfig) -> None:
        url = urlsplit(config.url)
        try:
            host, port = url.hostname, url.port or 80
        except ValueError:
            host, port = None, 0
        if url.scheme != "http" or not host or url.query or url.fragment:
            raise StorageError(config.url, "open", "expected a URL like http://HOST:PORT/PATH")
        self.bytes_read = 0
        self.bytes_written = 0
        self._server = (host, port)
        self._base = url.path.rstrip("/")
        self._timeout_s = config.timeout_s
        self._streams = config.read_streams + _WRITE_STREAMS
        self._slots = asyncio.Semaphore(self._streams)
        self._idle: list[HttpConnection] = []
        self._closed = False

    def register(self, buffer: memoryview) -> None:
        """See `Storage.register`; sockets need no preparation."""

    async def read_into(self, key: str, offset: int, into: memoryview) -> None:
        """See `Storage.read_into`."""
        check_key(key, "read")
        check_range(key, offset, into)
        into = into.cast("B")
        last = offset + into.nbytes - 1
        answer = await self._request("GET", key, f"Range: bytes={offset}-{last}\r\n", into=into)
        if answer.status == 404:
            raise StorageError(key, "read", "no such object (404)")
        if answer.status == 416 or (answer.status == 206 and answer.object_bytes <= last):
            raise short_read(key, offset, into.nbytes, answer.object_bytes)
        if answer.status == 200:
            raise StorageError(key, "read", "the server sent the whole object (200), expected a range (206)")
        if answer.status != 206 or answer.range_start != offset or answer.body_bytes != into.nbytes:
            raise StorageError(key, "read", f"unexpected answer {answer}")

    async def write(self, key: str, data: Data) -> None:
        """See `Storage.write`."""
        check_key(key, "write")
        body = memoryview(data).cast("B")
        answer = await self._request("PUT", key, f"Content-Length: {body.nbytes}\r\n", body=body)
        if answer.status not in (200, 201, 204):
            reason = f"status {answer.status}, expected 201 or 204: may the server write, and is there space?"
            raise StorageError(key, "write", reason)
        self.bytes_written += body.nbytes

    async def delete(self, prefix: str) -> None:
        """See `Storage.delete`."""
        check_key(prefix, "delete")
        for path in (prefix + "/", prefix):
            answer = await self._request("DELETE", path)
            if answer.status in (200, 204):
                return
        if answer.status != 404:
            raise StorageError(prefix, "delete", f"status {answer.status}, expected 204 or 404")

    async def close(self) -> None:
        """See `Storage.close`."""
        self._closed = True
        for _ in range(self._streams):
            await self._slots.acquire()  # the requests under way end first
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _request(
        self,
        method: str,
        path: str,
        fields: str = "",
        *,
        body: memoryview = _NO_BYTES,
        into: memoryview = _NO_BYTES,
    ) -> Response:
        """One exchange; tried again where a kept connection turns out to have been closed meanwhile."""
        host, port = self._server
        head = f"{method} {self._base}/{path} HTTP/1.1\r\nHost: {host}:{port}\r\n{fields}\r\n"
        request = Request(head.encode(), body, into)
        async with self._slots:
            while True:
                if self._closed:
                    raise self._error(method, path, "the storage is closed")
                kept = bool(self._idle)
                connection = self._idle.pop() if kept else HttpConnection(self._server, self._timeout_s)
                try:
                    return await self._exchange(connection, request)
                except TimeoutError as error:
                    raise self._error(method, path, f"no progress for {self._timeout_s:g} s") from error
                except (OSError, EOFError, MalformedResponseError) as error:
                    if not kept or connection.answered:
                        number = getattr(error, "errno", None)
                        reason = os.strerror(number) if number else str(error)
                        raise self._error(method, path, reason) from error

    async def _exchange(self, connection: HttpConnection, request: Request) -> Response:
        """One exchange on ``connection``, which is kept or closed afterwards."""
        before_bytes, keep = connection.received_bytes, False
        try:
            answer = await connection.exchange(request)
            keep = answer.keeps_alive and not self._closed
            return answer
        finally:
            self.bytes_read += connection.received_bytes - before_bytes
            if keep:
                self._idle.append(connection)
            else:
                connection.close()

    def _error(self, method: str, path: str, reason: str) -> StorageError:
        host, port = self._server
        return StorageError(path, _OPERATIONS[method], f"http://{host}:{port}{self._base}: {reason}")
