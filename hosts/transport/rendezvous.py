"""How two ends of a transport that has no streams of its own find each other: a TCP connection for a few
messages (`hosts.line`).

Queue pairs and agents of other libraries need the peer's numbers before the first byte can move, and do not
notice at once when the peer's process is gone; this connection carries the first and, by its end, tells the
second.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from hosts.line import Line
from hosts.transport.base import TransferError

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_log = logging.getLogger(__name__)


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
            line = Line(reader, writer, MAX_MESSAGE_BYTES)
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
            return Line(*await connecting, MAX_MESSAGE_BYTES)
    except (OSError, ValueError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error) or f"no answer in {timeout_s:g} s"
        raise TransferError(address, "connect", 0, 0, reason) from error
