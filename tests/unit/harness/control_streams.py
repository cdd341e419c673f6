"""A control node on loopback and the ends of streams to it, over real TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from harness.authority import RunAuthority
from harness.control import AgentHandle, ControlServer
from hosts.credentials import CONTROL_NAME, Credentials, client_context
from hosts.line import Line
from hosts.protocol import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Envelope,
    Hello,
    Message,
)


class Control:
    """A server for p0 and d0 and what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Message]] = []
        self.authority = RunAuthority("0123abcd")
        hosts = ["p0", "d0"]
        self.server = ControlServer(
            self.authority, hosts, lambda host, event: self.events.append((host, event))
        )
        self.address = ""

    def credentials(self, host: str) -> Credentials:
        return self.authority.credentials(host, self.address)

    async def handle(self, host: str) -> AgentHandle:
        return await asyncio.wait_for(asyncio.shield(self.server._attached[host]), 5)

    @property
    def anyone_attached(self) -> bool:
        return any(attached.done() for attached in self.server._attached.values())


def run(test: Callable[[Control], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        control = Control()
        try:
            control.address = await control.server.start("127.0.0.1")
            async with asyncio.timeout(20):
                await test(control)
        finally:
            await control.server.stop()

    asyncio.run(inside())


@asynccontextmanager
async def connected(
    control: Control, context: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the control node, with TLS or without."""
    host, port = control.address.split(":")
    name = CONTROL_NAME if context else None
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def stream(control: Control, host: str, first: Message | None = None) -> AsyncIterator[Line]:
    """An agent's end of a stream that begins with ``first``, by default what it should."""
    async with connected(control, client_context(control.credentials(host))) as (reader, writer):
        line = Line(reader, writer, MAX_MESSAGE_BYTES)
        line.post(Envelope(0, first or hello(host)))
        yield line


def hello(host: str, version: int = PROTOCOL_VERSION) -> Hello:
    return Hello(host, version, {"kernel": "6"})


async def ended(reader: asyncio.StreamReader) -> None:
    """The server has closed the connection, one way or another."""
    try:
        while await asyncio.wait_for(reader.read(65536), 5):
            pass
    except OSError:
        pass
