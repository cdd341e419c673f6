"""The agent's end of its control stream: MessagePack envelopes over mutual TLS 1.3.

The stream is the agent's lease on life. The control node says something at least every `HEARTBEAT_S`; when it
has been silent for `LEASE_S`, or the stream breaks, the agent frees everything and exits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from hosts.credentials import CONTROL_NAME, Credentials, client_context
from hosts.line import Line
from hosts.protocol import HEARTBEAT_S, LEASE_S, MAX_MESSAGE_BYTES, Envelope, Hello

ATTACH_TIMEOUT_S = 30.0
_FLUSH_TIMEOUT_S = 2.0
READ_AHEAD_BYTES = 1024 * 1024


class ControlLostError(Exception):
    """There is no control node, it is not of this run, or it is gone; the message says which."""


class ControlStream:
    """An attached stream."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._heard = asyncio.Event()

    def post(self, envelope: Envelope) -> None:
        """Send without waiting."""
        self._line.post(envelope)

    async def envelopes(self) -> AsyncGenerator[Envelope, None]:
        """What the control node sends, to the stream's end; `ControlLostError` if it breaks or is silent."""
        reader = asyncio.current_task()
        assert reader is not None
        watch = asyncio.create_task(self._watch(reader))
        try:
            while True:
                envelope = await self._line.receive(Envelope)
                self._heard.set()
                yield envelope
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise ControlLostError("the control stream broke in mid-message") from error
        except (OSError, ValueError) as error:
            raise ControlLostError(f"the control stream broke: {error}") from error
        except asyncio.CancelledError:
            if watch.done():
                reader.uncancel()
                raise ControlLostError(f"the control node was silent for {LEASE_S:g} s") from None
            raise
        finally:
            watch.cancel()

    async def _watch(self, reader: asyncio.Task[None]) -> None:
        """Interrupt ``reader`` after `LEASE_S` of silence. It is counted in intervals that this process was
        awake for: one that was stopped, or busy with other things, has heard nothing, either."""
        silent = 0
        while silent * HEARTBEAT_S < LEASE_S:
            self._heard.clear()
            await asyncio.sleep(HEARTBEAT_S)
            silent = 0 if self._heard.is_set() else silent + 1
        reader.cancel()


@asynccontextmanager
async def attach(credentials: Credentials, hello: Hello) -> AsyncIterator[ControlStream]:
    """Dial the control node, prove who this is and say hello; `ControlLostError` if that fails."""
    host, _, port = credentials.control.rpartition(":")
    try:
        async with asyncio.timeout(ATTACH_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                host.strip("[]"),
                int(port),
                ssl=client_context(credentials),
                server_hostname=CONTROL_NAME,
                limit=READ_AHEAD_BYTES,
            )
    except ssl.SSLError as error:
        raise ControlLostError(f"{credentials.control} is not this run's control node: {error}") from error
    except TimeoutError:
        reason = f"no control node at {credentials.control} within {ATTACH_TIMEOUT_S:g} s"
        raise ControlLostError(reason) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ControlLostError(f"no control node at {credentials.control}: {reason}") from error
    notice_silence(writer)
    line = Line(reader, writer, MAX_MESSAGE_BYTES)
    line.post(Envelope(0, hello))
    try:
        yield ControlStream(line)
    finally:
        line.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                await writer.wait_closed()


def notice_silence(writer: asyncio.StreamWriter) -> None:
    """Have the kernel end a stream whose peer's machine is gone: by what is sent (tcp(7), TCP_USER_TIMEOUT),
    or by probes while nothing is."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(LEASE_S * 1000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(HEARTBEAT_S))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(HEARTBEAT_S))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, int(LEASE_S / HEARTBEAT_S))
