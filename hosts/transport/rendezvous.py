"""How two ends of a transport that has no streams of its own find each other: a TCP connection for a few
messages.

Queue pairs and agents of other libraries need the peer's numbers before the first byte can move, and do not
notice at once when the peer's process is gone; this connection carries the first and, by its end, tells the
second. A message is a 4-byte little-endian length and a MessagePack value.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from hosts.transport.base import TransferError

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_LENGTH_BYTES = 4
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Line:
    """One end of a rendezvous connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        name = writer.get_extra_info("peername")
        self.peer = f"{name[0]}:{name[1]}" if name else "?"

    def post(self, message: object) -> None:
        """Send any value that msgspec encodes, without waiting. On a lost connection it is gone."""
        payload = msgspec.msgpack.encode(message)
        self._writer.write(len(payload).to_bytes(_LENGTH_BYTES, "little") + payload)

    async def send(self, message: object) -> None:
        """Send any value that msgspec encodes; OSError if the connection is lost."""
        self.post(message)
        await self._writer.drain()

    async def receive(self, kind: type[_T]) -> _T:
        """The next message, which has to be a ``kind``.

        Raises EOFError at the connection's end, OSError if it is lost, ValueError for anything else.
        """
        length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "little")
        if length > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {length} bytes, expected at most {MAX_MESSAGE_BYTES}")
        payload = await self._reader.readexactly(length)
        return msgspec.msgpack.decode(payload, type=kind)

    def close(self) -> None:
        """End the connection at once; the peer sees its end."""
        self._writer.close()


class Rendezvous:
    """Listens at ``address`` and gives every connection to ``serve``, whose end closes it."""

    def __init__(self, server: asyncio.Server, tasks: set[asyncio.Task[None]]) -> None:
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._server = server
        self._tasks = tasks

    @classmethod
    async def open(cls, bind_address: str, serve: Callable[[Line], Awaitable[None]]) -> Rendezvous:
        """Listen on a free port of ``bind_address``; raises `TransferError` if that cannot be done."""
        tasks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            line = Line(reader, writer)
            try:
                await serve(line)
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                _log.warning("ending the rendezvous with %s: %s", line.peer, error or type(error).__name__)
            except asyncio.CancelledError:
                pass  # by `close`; asyncio's streams (3.11) report a task that ends so as an error
            finally:
                tasks.discard(task)
                line.close()

        try:
            server = await asyncio.start_server(accept, bind_address, 0, backlog=256)
        except OSError as error:
            reason = f"cannot listen there: {error.strerror or error}"
            raise TransferError(bind_address, "listen", 0, 0, reason) from error
        return cls(server, tasks)

    async def close(self) -> None:
        """Accept no more and end every connection that was accepted."""
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def dial(address: str, bind_address: str, timeout_s: float) -> Line:
    """A connection to a `Rendezvous`; raises `TransferError` if there is none within ``timeout_s``."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            connecting = asyncio.open_connection(host.strip("[]"), int(port), local_addr=(bind_address, 0))
            return Line(*await connecting)
    except (OSError, ValueError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error) or f"no answer in {timeout_s:g} s"
        raise TransferError(address, "connect", 0, 0, reason) from error
