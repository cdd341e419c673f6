"""The control node's end of the control streams: a server that agents attach to, over mutual TLS 1.3.

One long-lived stream an agent, of MessagePack envelopes (hosts.protocol). An `AgentHandle` sends commands and
events; `ControlServer` hands out handles as agents say hello, and refuses everybody else.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from harness.authority import RunAuthority
from harness.host_error import HostError
from hosts.control_stream import READ_AHEAD_BYTES, notice_silence
from hosts.line import Line
from hosts.protocol import (
    HEARTBEAT_S,
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Envelope,
    Failed,
    Hello,
    Message,
    Ping,
)

_HELLO_TIMEOUT_S = 10.0
_HELLO_BYTES = 64 * 1024
_MAX_STRANGERS = 256
"""Connections that have not said hello yet; more are closed at once."""
_log = logging.getLogger("dualpath.control")


class AgentHandle:
    """One attached agent. ``lost`` ends with HostError when its stream does."""

    def __init__(self, hello: Hello, line: Line, on_event: Callable[[str, Message], None]) -> None:
        self.host = hello.host
        self.facts = hello.facts
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line = line
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._ids = itertools.count(1)
        self._on_event = on_event

    def send(self, message: Message) -> None:
        """Send without waiting for anything."""
        if not self.lost.done():
            self._line.post(Envelope(0, message))

    async def call(self, command: Message, timeout_s: float) -> Message:
        """Send a command and wait for its answer; raises HostError on failure, loss and timeout."""
        if self.lost.done():
            raise HostError(self.host, "its agent is gone")
        id_ = next(self._ids)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[id_] = answer
        self._line.post(Envelope(id_, command))
        try:
            async with asyncio.timeout(timeout_s):
                body = await answer
        except TimeoutError:
            name = type(command).__name__
            raise HostError(self.host, f"no answer to {name} within {timeout_s:g} s") from None
        finally:
            del self._answers[id_]
        if isinstance(body, Failed):
            raise HostError(self.host, body.reason, told=True)
        return body

    def deliver(self, envelope: Envelope) -> None:
        """A message arrived: an answer to a command, or an event."""
        answer = self._answers.get(envelope.id)
        if envelope.id == 0:
            self._on_event(self.host, envelope.body)
        elif answer is not None and not answer.done():
            answer.set_result(envelope.body)

    def disconnect(self, reason: str) -> None:
        """End the stream: everything that waits on this agent fails."""
        error = HostError(self.host, reason)
        if not self.lost.done():
            self.lost.set_exception(error)
            self.lost.exception()  # observed here: whoever cares awaits it, nobody has to
            self._line.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)


class ControlServer:
    """Listens for the named hosts, as the run's ``authority`` certifies them, and for nobody else."""

    def __init__(
        self, authority: RunAuthority, hosts: list[str], on_event: Callable[[str, Message], None]
    ) -> None:
        self._tls = authority.server_context()
        self._on_event = on_event
        loop = asyncio.get_running_loop()
        self._attached: dict[str, asyncio.Future[AgentHandle]] = {h: loop.create_future() for h in hosts}
        self._streams: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self._server: asyncio.Server | None = None
        self._heart: asyncio.Task[None] | None = None

    async def start(self, address: str) -> str:
        """Listen on a free port of ``address``; ``address:port``. Raises HostError if it cannot."""
        try:
            self._server = await asyncio.start_server(
                self._accept, address, 0, limit=READ_AHEAD_BYTES, backlog=1024
            )
        except OSError as error:
            reason = f"cannot listen on {address}: {error.strerror or error}"
            raise HostError("control", reason) from None
        self._heart = asyncio.create_task(self._beat())
        return f"{address}:{self._server.sockets[0].getsockname()[1]}"

    async def agents(self, timeout_s: float) -> dict[str, AgentHandle]:
        """Every expected agent, by host; raises HostError naming those that did not come."""
        await asyncio.wait(self._attached.values(), timeout=timeout_s)
        missing = [host for host, handle in self._attached.items() if not handle.done()]
        if missing:
            raise HostError(", ".join(missing), f"agent did not attach within {timeout_s:g} s")
        return {host: handle.result() for host, handle in self._attached.items()}

    async def stop(self) -> None:
        """End every stream, that of an agent that hangs as well."""
        if self._server is None:
            return
        assert self._heart is not None, "begins with the server"
        self._heart.cancel()
        self._server.close()
        for attached in self._attached.values():
            if attached.done():
                attached.result().disconnect("the control node has stopped")
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(self._heart, *self._streams, return_exceptions=True)

    async def _beat(self) -> None:
        """Let every agent hear from here regularly, whatever else happens."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for attached in self._attached.values():
                if attached.done() and not attached.result().lost.done():
                    attached.result().send(Ping())

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = asyncio.current_task()
        assert stream is not None
        self._streams.add(stream)
        try:
            handle, line = await self._admit(reader, writer)
            await self._receive(handle, line)
        except _RefusedError as refusal:
            name = writer.get_extra_info("peername")
            _log.warning("refused %s: %s", name[0] if name else "?", refusal)
        except asyncio.CancelledError:
            pass  # by `stop`; asyncio's streams (3.11) report a task that ends so as an error
        finally:
            self._streams.discard(stream)
            with suppress(AttributeError):  # asyncio's TLS (3.11.2) fails so on one that is closed already
                writer.transport.abort()

    async def _admit(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[AgentHandle, Line]:
        """The agent that this connection turns out to be; `_RefusedError` says why it is none."""
        if self._strangers >= _MAX_STRANGERS:
            raise _RefusedError(f"{self._strangers} connections have not said hello yet")
        self._strangers += 1
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                await writer.start_tls(self._tls)
                notice_silence(writer)
                hello = (await Line(reader, writer, _HELLO_BYTES).receive(Envelope)).body
        except TimeoutError:
            raise _RefusedError(f"no hello within {_HELLO_TIMEOUT_S:g} s") from None
        except ssl.SSLError as error:
            raise _RefusedError(error.reason or str(error)) from None
        except (EOFError, ConnectionError):
            raise _RefusedError("it hung up before saying hello") from None
        except (OSError, ValueError) as error:
            raise _RefusedError(str(error)) from None
        finally:
            self._strangers -= 1
        certified = certified_name(writer)
        if not isinstance(hello, Hello):
            raise _RefusedError(f"found {type(hello).__name__} of {certified}, expected Hello first")
        if hello.host != certified:
            raise _RefusedError(f"{certified} says that it is {hello.host}")
        if hello.host not in self._attached:
            raise _RefusedError(f"{hello.host} is no host of this run")
        if hello.protocol_version != PROTOCOL_VERSION:
            raise _RefusedError(
                f"{hello.host} speaks protocol version {hello.protocol_version}, this is {PROTOCOL_VERSION}"
            )
        if self._attached[hello.host].done():
            raise _RefusedError(f"{hello.host} is attached already")
        line = Line(reader, writer, MAX_MESSAGE_BYTES)
        handle = AgentHandle(hello, line, self._on_event)
        self._attached[hello.host].set_result(handle)
        return handle, line

    @staticmethod
    async def _receive(handle: AgentHandle, line: Line) -> None:
        """Deliver messages until the stream ends."""
        reason = "its control stream broke"
        try:
            while True:
                handle.deliver(await line.receive(Envelope))
        except asyncio.IncompleteReadError as error:
            reason = "its agent ended in mid-message" if error.partial else "its agent ended"
        except ValueError as error:
            reason = f"sent what is not a message: {error}"
        except OSError as error:
            reason = f"its control stream broke: {error.strerror or error}"
        finally:
            handle.disconnect(reason)


class _RefusedError(Exception):
    """Who connected is not let in."""


def certified_name(writer: asyncio.StreamWriter) -> str:
    """Whom the peer's certificate is for, which the TLS handshake has checked."""
    subject: tuple[tuple[tuple[str, str], ...], ...] = writer.get_extra_info("peercert")["subject"]
    return next(value for part in subject for key, value in part if key == "commonName")


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end; a cancellation that arrives meanwhile takes effect afterwards."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
