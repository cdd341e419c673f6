"""The control node's streams over real TLS on loopback, with scripted agents, real ones, and strangers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hosts.control_stream
from harness import control as control_module
from harness.authority import RunAuthority
from harness.control import AgentHandle, ControlServer
from harness.host_error import HostError
from hosts import agent as agent_module
from hosts.control_stream import ControlLostError, ControlStream
from hosts.credentials import CONTROL_NAME, Credentials, client_context, server_context
from hosts.line import Line
from hosts.protocol import (
    MAX_MESSAGE_BYTES,
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


# --- strangers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (hello("p7"), "p0 says that it is p7"),
        (hello("d0"), "p0 says that it is d0"),
        (Ping(), "found Ping of p0, expected Hello first"),
        (hello("p0", PROTOCOL_VERSION + 1), f"p0 speaks protocol version {PROTOCOL_VERSION + 1}"),
    ],
    ids=["unknown host", "another host", "not a hello", "other protocol version"],
)
def test_a_certified_one_that_does_not_say_hello_is_refused(
    first: Message, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(control: Control) -> None:
        async with stream(control, "p0", first) as line:
            await ended(line._reader)
        assert not control.anyone_attached

    run(test)
    assert f"refused 127.0.0.1: {reason}" in caplog.text


def test_a_host_of_no_role_in_the_run_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def test(control: Control) -> None:
        async with stream(control, "p7") as line:
            await ended(line._reader)

    run(test)
    assert "p7 is no host of this run" in caplog.text


def without_certificate(control: Control) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=control.credentials("p0").authority)
    return context


def of_another_run(control: Control) -> ssl.SSLContext:
    context = client_context(RunAuthority("feedbeef").credentials("p0", control.address))
    context.load_verify_locations(cadata=control.credentials("p0").authority)
    return context


def with_tls_1_2(control: Control) -> ssl.SSLContext:
    context = client_context(control.credentials("p0"))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (without_certificate, "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        (of_another_run, "CERTIFICATE_VERIFY_FAILED"),
        (with_tls_1_2, "UNSUPPORTED_PROTOCOL"),
    ],
)
def test_tls_refuses(
    context: Callable[[Control], ssl.SSLContext], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(control: Control) -> None:
        try:
            async with connected(control, context(control)) as (reader, writer):
                Line(reader, writer, 1).post(Envelope(0, hello("p0")))
                await ended(reader)
        except OSError:
            pass  # refused in the handshake already
        await asyncio.gather(*control.server._streams)
        assert not control.anyone_attached

    run(test)
    assert reason in caplog.text


def test_an_agent_refuses_a_control_node_of_another_run() -> None:
    async def test(control: Control) -> None:
        stranger = RunAuthority("feedbeef").credentials("p0", control.address)
        with pytest.raises(ControlLostError, match="is not this run's control node"):
            await agent_module.run(stranger)

    run(test)


def as_another_host(control: Control) -> ssl.SSLContext:
    """A certificate of this run, but not the control node's."""
    d0 = control.credentials("d0")
    return server_context(d0.authority, d0.certificate, d0.private_key)


@pytest.mark.parametrize("context", [as_another_host, lambda _: None], ids=["another host", "no TLS"])
def test_an_agent_refuses_who_is_not_the_control_node(
    context: Callable[[Control], ssl.SSLContext | None],
) -> None:
    """Who sits between it and the control node can have no more than that."""

    async def test(control: Control) -> None:
        said: list[bytes] = []

        async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(Envelope.__name__.encode() * 100)
            said.append(await reader.read())
            writer.close()

        server = await asyncio.start_server(pretend, "127.0.0.1", 0, ssl=context(control))
        address = "{}:{}".format(*server.sockets[0].getsockname())
        with pytest.raises(ControlLostError, match="is not this run's control node"):
            await agent_module.run(control.authority.credentials("p0", address))
        server.close()
        await server.wait_closed()
        assert not any(b"Hello" in heard for heard in said)

    run(test)


def test_a_replayed_hello_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Every byte that an agent sent, once more, from the first on: the keys of that connection are gone."""

    async def test(control: Control) -> None:
        sent = bytearray()

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            host, port = control.address.split(":")
            upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))

            async def there() -> None:
                while data := await reader.read(65536):
                    sent.extend(data)
                    upstream_writer.write(data)

            async def back() -> None:
                while data := await upstream_reader.read(65536):
                    writer.write(data)

            await asyncio.gather(there(), back(), return_exceptions=True)
            upstream_writer.transport.abort()
            writer.transport.abort()

        tap = await asyncio.start_server(forward, "127.0.0.1", 0)
        address = f"127.0.0.1:{tap.sockets[0].getsockname()[1]}"
        agent = asyncio.create_task(agent_module.run(control.authority.credentials("p0", address)))
        handle = await control.handle("p0")
        assert sent
        async with connected(control, None) as (reader, writer):
            writer.write(bytes(sent))
            await ended(reader)
        assert await handle.call(Ping(), 5) == Done()
        await handle.call(Shutdown(), 5)
        await agent
        tap.close()

    run(test)
    assert "refused 127.0.0.1: " in caplog.text


def test_a_second_agent_of_a_host_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def test(control: Control) -> None:
        async with stream(control, "p0"):
            first = await control.handle("p0")
            async with stream(control, "p0") as second:
                await ended(second._reader)
            assert not first.lost.done()

    run(test)
    assert "p0 is attached already" in caplog.text


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_whatever_a_stranger_sends_the_server_lives_on(data: bytes, certified: bool) -> None:
    async def test(control: Control) -> None:
        context = client_context(control.credentials("d0")) if certified else None
        async with stream(control, "p0"):
            handle = await control.handle("p0")
            async with connected(control, context) as (reader, writer):
                writer.write(data)
                if writer.can_write_eof():
                    writer.write_eof()
                elif certified:
                    writer.close()
                await ended(reader)
            assert not handle.lost.done()
            assert not control.server._attached["d0"].done()

    run(test)


@pytest.mark.parametrize("length", [65 * 1024, 1 << 31, (1 << 32) - 1])
def test_an_oversized_first_message_is_refused_before_it_is_read(
    length: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(control: Control) -> None:
        async with connected(control, client_context(control.credentials("p0"))) as (reader, writer):
            writer.write(length.to_bytes(4, "little"))
            await ended(reader)

    run(test)
    assert f"a message of {length} bytes, expected at most" in caplog.text


def test_who_says_nothing_is_let_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control_module, "_HELLO_TIMEOUT_S", 0.05)

    async def test(control: Control) -> None:
        async with connected(control, None) as (reader, _):
            await ended(reader)
        async with connected(control, client_context(control.credentials("p0"))) as (reader, writer):
            writer.write(b"\x10\x00")
            await ended(reader)

    run(test)
    assert caplog.text.count("no hello within 0.05 s") == 2


def test_too_many_that_say_nothing_do_not_keep_agents_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control_module, "_MAX_STRANGERS", 3)

    async def test(control: Control) -> None:
        idle = [await asyncio.open_connection(*control.address.split(":")) for _ in range(5)]
        for reader, _ in idle[3:]:
            await ended(reader)
        for _, writer in idle:
            writer.close()
        await asyncio.gather(*control.server._streams)
        async with stream(control, "p0"):
            await control.handle("p0")

    run(test)
    assert caplog.text.count("3 connections have not said hello yet") == 2


# --- agents ----------------------------------------------------------------------------------


def test_commands_are_answered_and_events_are_passed_on() -> None:
    async def test(control: Control) -> None:
        async with stream(control, "p0") as line:
            agent = await control.handle("p0")
            assert agent.facts == {"kernel": "6"}
            answers = [asyncio.create_task(agent.call(Ping(), 5)) for _ in range(2)]
            asked = [await line.receive(Envelope) for _ in answers]
            line.post(Envelope(0, ReadDone(7)))
            line.post(Envelope(asked[1].id, Failed("p0", "no such thing")))
            line.post(Envelope(asked[0].id, Done()))
            assert await answers[0] == Done()
            with pytest.raises(HostError, match=r"^host p0: no such thing$"):
                await answers[1]
            assert control.events == [("p0", ReadDone(7))]

    run(test)


def test_no_answer_is_an_error_at_the_timeout() -> None:
    async def test(control: Control) -> None:
        async with stream(control, "p0"):
            agent = await control.handle("p0")
            with pytest.raises(HostError, match=r"host p0: no answer to Ping within 0\.05 s"):
                await agent.call(Ping(), 0.05)

    run(test)


def end_of_stream(line: Line) -> None:
    line.close()


def nonsense(line: Line) -> None:
    line._writer.write(b"\x01\x00\x00\x00\xc1")


def too_much(line: Line) -> None:
    line._writer.write((MAX_MESSAGE_BYTES + 1).to_bytes(4, "little"))


def half_a_message(line: Line) -> None:
    line._writer.write(b"\x05\x00\x00\x00\xc1")
    line.close()


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (end_of_stream, "its agent ended"),
        (half_a_message, "its agent ended in mid-message"),
        (nonsense, "sent what is not a message: "),
        (too_much, f"sent what is not a message: a message of {MAX_MESSAGE_BYTES + 1} bytes"),
    ],
)
def test_a_lost_agent_fails_calls_under_way_and_later_ones(
    ending: Callable[[Line], None], reason: str
) -> None:
    async def test(control: Control) -> None:
        async with stream(control, "d0") as line:
            agent = await control.handle("d0")
            under_way = asyncio.create_task(agent.call(BeginRepetition(True), 30))
            await line.receive(Envelope)
            ending(line)
            with pytest.raises(HostError, match=f"host d0: {reason}"):
                await asyncio.wait_for(under_way, 5)
            with pytest.raises(HostError, match=reason):
                await agent.lost
            with pytest.raises(HostError, match="its agent is gone"):
                await agent.call(Ping(), 5)
            agent.send(Ping())  # to nobody

    run(test)


def test_an_idle_agent_hears_from_the_control_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts are told nothing for minutes while the storage is primed."""
    monkeypatch.setattr(control_module, "HEARTBEAT_S", 0.02)

    async def test(control: Control) -> None:
        async with stream(control, "p0") as line:
            await control.handle("p0")
            for _ in range(3):
                assert await line.receive(Envelope) == Envelope(0, Ping())

    run(test)


def test_agents_that_do_not_come_are_named() -> None:
    async def test(control: Control) -> None:
        async with stream(control, "p0"):
            await control.handle("p0")
            with pytest.raises(HostError, match=r"^host d0: agent did not attach within 0\.05 s$"):
                await control.server.agents(0.05)

    run(test)


def test_an_address_of_somebody_else_is_one_line() -> None:
    async def test(control: Control) -> None:
        elsewhere = ControlServer(control.authority, [], lambda host, event: None)
        with pytest.raises(HostError, match=r"^host control: cannot listen on 192\.0\.2\.1: ") as error:
            await elsewhere.start("192.0.2.1")
        assert "\n" not in str(error.value)
        await elsewhere.stop()

    run(test)


def test_stop_ends_a_stream_whose_agent_hangs() -> None:
    async def test(control: Control) -> None:
        async with stream(control, "p0"):
            agent = await control.handle("p0")
            await control.server.stop()
            with pytest.raises(HostError, match="the control node has stopped"):
                await agent.lost

    run(test)


def test_a_real_agent_attaches_refuses_what_it_cannot_do_and_ends_when_told() -> None:
    async def test(control: Control) -> None:
        agent = asyncio.create_task(agent_module.run(control.credentials("p0")))
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
        agent = asyncio.create_task(agent_module.run(control.credentials("p0")))
        await control.handle("p0")
        await control.server.stop()
        await asyncio.wait_for(agent, 5)

    run(test)


def test_an_agent_ends_when_the_control_node_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that hangs is, or whose machine is gone."""
    monkeypatch.setattr(hosts.control_stream, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(hosts.control_stream, "LEASE_S", 0.1)
    # The kernel counts in whole seconds.
    for module in (hosts.control_stream, control_module):
        monkeypatch.setattr(module, "notice_silence", lambda writer: None)

    async def test(control: Control) -> None:
        with pytest.raises(ControlLostError, match=r"the control node was silent for 0\.1 s"):
            await agent_module.run(control.credentials("p0"))

    run(test)


def test_being_cancelled_is_not_taken_for_silence() -> None:
    async def test(_: Control) -> None:
        here, there = socket.socketpair()
        with there:
            reader, writer = await asyncio.open_connection(sock=here)

            async def read() -> None:
                async with aclosing(ControlStream(Line(reader, writer, 1)).envelopes()) as envelopes:
                    async for _ in envelopes:
                        pass

            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            writer.close()

    run(test)


def test_nobody_there_is_one_line() -> None:
    credentials = RunAuthority("0123abcd").credentials("p0", "127.0.0.1:1")
    with pytest.raises(ControlLostError, match=r"no control node at 127\.0\.0\.1:1: Connect"):
        asyncio.run(agent_module.run(credentials))


def test_credentials_do_not_show_and_leave_no_file_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    credentials = RunAuthority("0123abcd").credentials("p0", "127.0.0.1:1")
    client_context(credentials)
    assert repr(credentials) == "Credentials('p0')"
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert msgspec.json.decode(msgspec.json.encode(credentials), type=Credentials) == credentials
    logging.getLogger("dualpath.control").debug("%s", credentials)
