"""How two ends of a transport that has no streams of its own find each other: a TCP connection for a few
messages (`hosts.line`).

Queue pairs and agents of other libraries need the peer's numbers before the first byte can move, and do not
notice at once when the peer's process is gone; this connection carries the first and, by its end, tells the
second.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from hosts.config import TransportConfig
from hosts.line import Line
from hosts.transport.entrance import Entrance, dial

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_log = logging.getLogger(__name__)


class Rendezvous:
    """An `Entrance` that gives every connection to ``serve``, whose end closes it."""

    def __init__(self, config: TransportConfig, serve: Callable[[Line], Awaitable[None]]) -> None:
        self._serve = serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._entrance = Entrance.open(config, self._admit)
        self.address = self._entrance.address

    def _admit(self, sock: socket.socket, peer: str) -> None:
        task = asyncio.create_task(self._run(sock, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, sock: socket.socket, peer: str) -> None:
        line = await _line(sock)
        try:
            await self._serve(line)
        except (OSError, EOFError, ValueError) as error:
            _log.warning("ending the rendezvous with %s: %s", peer, error or type(error).__name__)
        finally:
            line.close()

    async def close(self) -> None:
        """Accept no more and end every connection that was accepted."""
        await self._entrance.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def meet(address: str, config: TransportConfig) -> Line:
    """A connection to a `Rendezvous`; raises `TransferError` if there is none within ``config.timeout_s``."""
    return await _line(await dial(address, config))


async def _line(sock: socket.socket) -> Line:
    try:
        return Line(*await asyncio.open_connection(sock=sock), MAX_MESSAGE_BYTES)
    except BaseException:
        sock.close()
        raise
