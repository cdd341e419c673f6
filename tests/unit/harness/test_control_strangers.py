"""Who is no agent of the run, and who is no control node of it: refused, logged, and the others go on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import pytest
from control_streams import Control, connected, ended, hello, run, stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import control as control_module
from harness.authority import RunAuthority
from hosts import agent as agent_module
from hosts.control_stream import ControlLostError
from hosts.credentials import client_context, server_context
from hosts.line import Line
from hosts.protocol import (
    PROTOCOL_VERSION,
    Done,
    Envelope,
    Message,
    Ping,
    Shutdown,
)


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
