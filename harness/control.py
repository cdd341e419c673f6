"""The control node's end of the control streams: a gRPC server that agents attach to.

One long-lived bidirectional stream an agent, MessagePack frames (hosts.protocol). An `AgentHandle`
sends commands and events; `ControlServer` hands out handles as agents say hello.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import msgspec

from harness.host_error import HostError
from hosts.agent import CHANNEL_OPTIONS
from hosts.protocol import (
    ATTACH_METHOD,
    PROTOCOL_VERSION,
    Envelope,
    Failed,
    Hello,
    Message,
    decode_envelope,
    encode,
)

_STOP_GRACE_S = 0.5
_STOP_TIMEOUT_S = 5.0
_EOF: Any = vars(grpc.aio)["EOF"]  # missing from the stubs
_SERVICE, _METHOD = ATTACH_METHOD.removeprefix("/").split("/")


class AgentHandle:
    """One attached agent. ``lost`` ends with HostError when its stream does."""

    def __init__(self, hello: Hello, on_event: Callable[[str, Message], None]) -> None:
        self.host = hello.host
        self.facts = hello.facts
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outbox: asyncio.Queue[Envelope] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._ids = itertools.count(1)
        self._on_event = on_event

    def send(self, message: Message) -> None:
        """Send without waiting for anything."""
        self._outbox.put_nowait(Envelope(0, message))

    async def call(self, command: Message, timeout_s: float) -> Message:
        """Send a command and wait for its answer; raises HostError on failure, loss and timeout."""
        if self.lost.done():
            raise HostError(self.host, "its agent is gone")
        id_ = next(self._ids)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[id_] = answer
        self._outbox.put_nowait(Envelope(id_, command))
        try:
            async with asyncio.timeout(timeout_s):
                body = await answer
        except TimeoutError:
            name = type(command).__name__
            raise HostError(self.host, f"no answer to {name} within {timeout_s:g} s") from None
        finally:
            del self._answers[id_]
        if isinstance(body, Failed):
            raise HostError(self.host, body.reason)
        return body

    def deliver(self, envelope: Envelope) -> None:
        """A frame arrived: an answer to a command, or an event."""
        answer = self._answers.get(envelope.id)
        if envelope.id == 0:
            self._on_event(self.host, envelope.body)
        elif answer is not None and not answer.done():
            answer.set_result(envelope.body)

    def disconnect(self, reason: str) -> None:
        """The stream ended: everything that waits on this agent fails."""
        error = HostError(self.host, reason)
        if not self.lost.done():
            self.lost.set_exception(error)
            self.lost.exception()  # observed here: whoever cares awaits it, nobody has to
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)

    async def frames(self) -> AsyncIterator[bytes]:
        """Frames to send, for ever."""
        while True:
            yield encode(await self._outbox.get())


class ControlServer:
    """Listens on ``address`` (port 0: any) for the named hosts, and for nobody else."""

    def __init__(self, hosts: list[str], on_event: Callable[[str, Message], None]) -> None:
        self._on_event = on_event
        loop = asyncio.get_running_loop()
        self._attached: dict[str, asyncio.Future[AgentHandle]] = {h: loop.create_future() for h in hosts}
        self._server = grpc.aio.server(options=CHANNEL_OPTIONS)

    async def start(self, address: str) -> str:
        """Begin to listen; the address with its real port. Raises HostError if it cannot."""
        handler = grpc.stream_stream_rpc_method_handler(self._attach)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),)
        )
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise HostError("control", f"cannot listen on {address}: {error}") from None
        await uninterrupted(self._server.start())  # grpc cannot stop a server that is half started
        return f"{address.rpartition(':')[0]}:{port}"

    async def agents(self, timeout_s: float) -> dict[str, AgentHandle]:
        """Every expected agent, by host; raises HostError naming those that did not come."""
        await asyncio.wait(self._attached.values(), timeout=timeout_s)
        missing = [host for host, handle in self._attached.items() if not handle.done()]
        if missing:
            raise HostError(", ".join(missing), f"agent did not attach within {timeout_s:g} s")
        return {host: handle.result() for host, handle in self._attached.items()}

    async def stop(self) -> None:
        """End every stream, that of an agent that hangs as well."""
        for attached in self._attached.values():
            if attached.done():
                attached.result().disconnect("the control node has stopped")
        with suppress(TimeoutError):  # the cluster's end takes agents that are left with it
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._server.stop(grace=_STOP_GRACE_S)

    async def _attach(self, _: object, context: Any) -> None:
        try:
            hello: object = decode_envelope(await context.read()).body
        except (msgspec.DecodeError, TypeError) as error:  # TypeError: it ended without a frame
            hello = error
        if not isinstance(hello, Hello) or hello.host not in self._attached:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "expected Hello of a known host")
            return
        if hello.protocol_version != PROTOCOL_VERSION or self._attached[hello.host].done():
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "protocol version, or attached twice")
            return
        handle = AgentHandle(hello, self._on_event)
        self._attached[hello.host].set_result(handle)
        receiver = asyncio.create_task(self._receive(handle, context))
        sender = asyncio.create_task(self._send(handle, context))
        try:
            ends: list[asyncio.Future[Any]] = [receiver, sender, handle.lost]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (receiver, sender):
                task.cancel()
            reason, _ = await asyncio.gather(receiver, sender, return_exceptions=True)
            handle.disconnect(reason if isinstance(reason, str) else "its control stream broke")

    @staticmethod
    async def _receive(handle: AgentHandle, context: Any) -> str:
        """Deliver frames until the stream ends; why it did."""
        try:
            while (frame := await context.read()) is not _EOF:
                handle.deliver(decode_envelope(frame))
        except msgspec.DecodeError as error:
            return f"sent a frame that is not a message: {error}"
        return "its agent ended"

    @staticmethod
    async def _send(handle: AgentHandle, context: Any) -> None:
        async for frame in handle.frames():
            await context.write(frame)


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end; a cancellation that arrives meanwhile takes effect afterwards."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
