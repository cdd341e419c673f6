"""The control node's streams over real TLS on loopback, with scripted agents and real ones."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import aclosing

import msgspec
import pytest
from control_streams import Control, run, stream

import hosts.control_stream
from harness import control as control_module
from harness.authority import RunAuthority
from harness.control import ControlServer
from harness.host_error import HostError
from hosts import agent as agent_module
from hosts.control_stream import ControlLostError, ControlStream
from hosts.credentials import Credentials, client_context
from hosts.line import Line
from hosts.protocol import (
    MAX_MESSAGE_BYTES,
    BeginRepetition,
    Done,
    Envelope,
    Failed,
    Ping,
    ReadDone,
    Shutdown,
)


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
            with pytest.raises(HostError, match=r"^host p0: no such thing$") as error:
                await answers[1]
            assert error.value.told
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
            with pytest.raises(HostError, match=f"host d0: {reason}") as error:
                await asyncio.wait_for(under_way, 5)
            assert not error.value.told, "its log is the only evidence"
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
