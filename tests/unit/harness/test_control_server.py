"""The control node's streams over real gRPC on loopback, with scripted agents."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from harness.control import AgentHandle, ControlServer
from harness.host_error import HostError
from hosts.agent import CHANNEL_OPTIONS, Agent
from hosts.protocol import (
    ATTACH_METHOD,
    PROTOCOL_VERSION,
    BeginRepetition,
    Done,
    Envelope,
    Failed,
    Hello,
    Message,
    Ping,
    ReadDone,
    Shutdown,
    decode_envelope,
    encode,
)


class Control:
    """A server for p0 and d0 and what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Message]] = []
        self.server = ControlServer(["p0", "d0"], lambda host, event: self.events.append((host, event)))
        self.address = ""

    async def handle(self, host: str) -> AgentHandle:
        return await asyncio.wait_for(asyncio.shield(self.server._attached[host]), 5)


def run(test: Callable[[Control], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        control = Control()
        try:
            control.address = await control.server.start("127.0.0.1:0")
            await test(control)
        finally:
            await control.server.stop()

    asyncio.run(inside())


@asynccontextmanager
async def stream(control: Control, first: bytes) -> AsyncIterator[Any]:
    """An agent's end of a stream that began with the frame ``first``."""
    async with grpc.aio.insecure_channel(control.address, CHANNEL_OPTIONS) as channel:
        call: Any = channel.stream_stream(ATTACH_METHOD)(wait_for_ready=True)
        await call.write(first)
        try:
            yield call
        finally:
            call.cancel()


def hello(host: str, version: int = PROTOCOL_VERSION) -> bytes:
    return encode(Envelope(0, Hello(host, version, {"kernel": "6"})))


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (hello("p7"), grpc.StatusCode.PERMISSION_DENIED),
        (encode(Envelope(0, Ping())), grpc.StatusCode.PERMISSION_DENIED),
        (b"\xc1 not a message", grpc.StatusCode.PERMISSION_DENIED),
        (hello("p0", PROTOCOL_VERSION + 1), grpc.StatusCode.FAILED_PRECONDITION),
    ],
    ids=["unknown host", "not a hello", "not a message", "other protocol version"],
)
def test_a_stranger_is_refused(first: bytes, code: grpc.StatusCode) -> None:
    async def test(control: Control) -> None:
        async with stream(control, first) as call:
            assert await asyncio.wait_for(call.code(), 5) == code
        assert not any(attached.done() for attached in control.server._attached.values())

    run(test)


def test_a_second_agent_of_a_host_is_refused() -> None:
    async def test(control: Control) -> None:
        async with stream(control, hello("p0")):
            await control.handle("p0")
            async with stream(control, hello("p0")) as second:
                assert await asyncio.wait_for(second.code(), 5) == grpc.StatusCode.FAILED_PRECONDITION

    run(test)


def test_commands_are_answered_and_events_are_passed_on() -> None:
    async def test(control: Control) -> None:
        async with stream(control, hello("p0")) as call:
            agent = await control.handle("p0")
            assert agent.facts == {"kernel": "6"}
            answers = [asyncio.create_task(agent.call(Ping(), 5)) for _ in range(2)]
            asked = [decode_envelope(await call.read()) for _ in answers]
            await call.write(encode(Envelope(0, ReadDone(7))))
            await call.write(encode(Envelope(asked[1].id, Failed("p0", "no such thing"))))
            await call.write(encode(Envelope(asked[0].id, Done())))
            assert await answers[0] == Done()
            with pytest.raises(HostError, match=r"^host p0: no such thing$"):
                await answers[1]
            assert control.events == [("p0", ReadDone(7))]

    run(test)


def test_no_answer_is_an_error_at_the_timeout() -> None:
    async def test(control: Control) -> None:
        async with stream(control, hello("p0")):
            agent = await control.handle("p0")
            with pytest.raises(HostError, match=r"host p0: no answer to Ping within 0\.05 s"):
                await agent.call(Ping(), 0.05)

    run(test)


async def end_of_stream(call: Any) -> None:
    await call.done_writing()


async def nonsense(call: Any) -> None:
    await call.write(b"\xc1")


@pytest.mark.parametrize(
    ("ending", "reason"),
    [(end_of_stream, "its agent ended"), (nonsense, "sent a frame that is not a message")],
)
def test_a_lost_agent_fails_calls_under_way_and_later_ones(
    ending: Callable[[Any], Awaitable[None]], reason: str
) -> None:
    async def test(control: Control) -> None:
        async with stream(control, hello("d0")) as call:
            agent = await control.handle("d0")
            under_way = asyncio.create_task(agent.call(BeginRepetition(True), 30))
            await call.read()
            await ending(call)
            with pytest.raises(HostError, match=f"host d0: {reason}"):
                await asyncio.wait_for(under_way, 5)
            with pytest.raises(HostError, match=reason):
                await agent.lost
            with pytest.raises(HostError, match="its agent is gone"):
                await agent.call(Ping(), 5)

    run(test)


def test_an_idle_stream_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts hear nothing for minutes while the storage is primed. gRPC pings once a second at most, and would
    end the stream with the third ping."""
    hurried = {"grpc.keepalive_time_ms": 100}
    impatient = [(name, hurried.get(name, value)) for name, value in CHANNEL_OPTIONS]
    monkeypatch.setattr("harness.control.CHANNEL_OPTIONS", impatient)
    monkeypatch.setitem(globals(), "CHANNEL_OPTIONS", impatient)

    async def test(control: Control) -> None:
        async with stream(control, hello("p0")) as call:
            handle = await control.handle("p0")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(handle.lost), 4.5)
            asking = asyncio.create_task(handle.call(Ping(), 5))
            command = decode_envelope(await call.read())
            await call.write(encode(Envelope(command.id, Done())))
            assert await asking == Done()

    run(test)


def test_agents_that_do_not_come_are_named() -> None:
    async def test(control: Control) -> None:
        async with stream(control, hello("p0")):
            await control.handle("p0")
            with pytest.raises(HostError, match=r"^host d0: agent did not attach within 0\.05 s$"):
                await control.server.agents(0.05)

    run(test)


def test_a_port_in_use_is_one_line() -> None:
    async def test(control: Control) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            second = ControlServer([], lambda host, event: None)
            with pytest.raises(HostError, match=f"^host control: cannot listen on {address}: ") as error:
                await second.start(address)
            assert "\n" not in str(error.value)
            await second.stop()

    run(test)


def test_stop_ends_a_stream_whose_agent_hangs() -> None:
    async def test(control: Control) -> None:
        async with stream(control, hello("p0")):
            agent = await control.handle("p0")
            await control.server.stop()
            with pytest.raises(HostError, match="the control node has stopped"):
                await agent.lost

    run(test)


def test_a_real_agent_attaches_refuses_what_it_cannot_do_and_ends_when_told() -> None:
    async def test(control: Control) -> None:
        agent = asyncio.create_task(Agent("p0").run(control.address))
        handle = await control.handle("p0")
        assert await handle.call(Ping(), 5) == Done()
        with pytest.raises(HostError, match="BeginRepetition: RuntimeError: not configured yet"):
            await handle.call(BeginRepetition(True), 5)
        with pytest.raises(HostError, match="an agent does not serve ReadDone"):
            await handle.call(ReadDone(1), 5)
        assert await handle.call(Shutdown(), 5) == Done()
        await asyncio.wait_for(agent, 5)

    run(test)


def test_a_real_agent_ends_with_its_stream() -> None:
    async def test(control: Control) -> None:
        agent = asyncio.create_task(Agent("p0").run(control.address))
        await control.handle("p0")
        await control.server.stop()
        await asyncio.wait_for(agent, 5)

    run(test)
