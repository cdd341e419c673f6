"""A host belongs to one run at a time.

The claim is a listening socket with a name in Linux's abstract namespace (unix(7)): the kernel gives a name
to one process of a network namespace, whoever its user is, and takes it away with the process, however that
ends. Whoever connects is told who holds it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

NAME = "\0dualpath-host"
_ASK_TIMEOUT_S = 1.0
_ANSWER_BYTES = 4096


class Claim(msgspec.Struct, frozen=True):
    """By whom and since when (UTC, ISO 8601) a host is used; ``control`` is where that run is driven from."""

    run_id: str
    user: str
    since: str
    control: str

    def __str__(self) -> str:
        return f"run {self.run_id} of {self.user} on {self.control}, since {self.since}"


class ClaimedError(Exception):
    """Somebody else measures on this host; the message says who."""


@asynccontextmanager
async def claimed(claim: Claim) -> AsyncIterator[None]:
    """Hold this host for a run; raises `ClaimedError` if another run does."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(NAME)
        listening.listen()
    except OSError:
        listening.close()
        raise ClaimedError(
            f"in use by {await _holder()}; fix: wait for its end, or end it there (Ctrl-C, or 'dualpath "
            "cleanup' if it is dead)"
        ) from None
    answer = msgspec.json.encode(claim) + b"\n"

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(tell, sock=listening)
    try:
        yield
    finally:
        server.close()


async def _holder() -> str:
    try:
        async with asyncio.timeout(_ASK_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(NAME)
            try:
                return str(msgspec.json.decode(await reader.read(_ANSWER_BYTES), type=Claim))
            finally:
                writer.close()
    except (OSError, TimeoutError, msgspec.DecodeError):
        return "somebody who does not say who"
