"""The TCP transport against what a broken or hostile peer may send, and regions that go away meanwhile."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.config import TransportConfig
from hosts.peer_input import ProtocolError
from hosts.transport import Region, RemoteRegion, Strided, TransferError
from hosts.transport.entrance import Entrance, dial
from hosts.transport.tcp import TcpTransport
from hosts.transport.wire import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    Frame,
    Hello,
    Inlet,
    Kind,
    decode,
    encode,
)

CONFIG = TransportConfig(kind="tcp", timeout_s=2.0)
HELLO = encode(Kind.HELLO, 1, trailer=msgspec.msgpack.encode(Hello("tester", "low")))


def with_transport(
    test: Callable[[TcpTransport], Coroutine[Any, Any, None]], config: TransportConfig = CONFIG
) -> None:
    async def run() -> None:
        transport = await TcpTransport.open(config)
        try:
            async with asyncio.timeout(20):
                await test(transport)
        finally:
            await transport.close()

    asyncio.run(run())


async def answer_to(transport: TcpTransport, sent: bytes) -> bytes:
    """What the transport answers to ``sent`` by one of its run, until it closes or has no more to say."""
    reader, writer = await asyncio.open_connection(sock=await dial(transport.address, CONFIG))
    try:
        writer.write(sent)
        writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@given(
    kind=st.sampled_from(Kind),
    numbers=st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6),
    trailer=st.binary(max_size=100),
)
def test_a_header_is_read_as_written_or_refused(kind: Kind, numbers: list[int], trailer: bytes) -> None:
    operation, key, *at = numbers
    head = encode(kind, operation, key, Strided(*at), trailer)
    assert head[HEADER_BYTES:] == trailer

    frame = Frame(kind, len(trailer), operation, key, Strided(*at))
    if frame.payload_bytes > MAX_PAYLOAD_BYTES:
        with pytest.raises(ProtocolError, match="payload"):
            decode(bytearray(head[:HEADER_BYTES]))
    else:
        assert decode(bytearray(head[:HEADER_BYTES])) == frame


@given(noise=st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_noise_is_not_a_header(noise: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected"):
        decode(bytearray(noise))


@given(
    at=st.tuples(st.integers(-5, 60), st.integers(-2, 20), st.integers(-2, 9), st.integers(-5, 30)),
    region_bytes=st.integers(1, 80),
)
def test_a_descriptor_without_fault_stays_inside_the_region(
    at: tuple[int, int, int, int], region_bytes: int
) -> None:
    strided = Strided(*at)
    touched = [
        strided.offset + piece * strided.stride + byte
        for piece in range(strided.count)
        for byte in range(strided.length)
    ]
    inside = all(0 <= byte < region_bytes for byte in touched)
    if strided.fault(region_bytes) is None:
        assert touched
        assert inside
        assert len(set(touched)) == len(touched) == strided.nbytes
        region = np.arange(region_bytes, dtype=np.uint8)
        assert strided.pieces(region).reshape(-1).tolist() == touched
    elif touched and inside and len(set(touched)) == len(touched):
        assert strided.count > 1
        assert strided.stride < strided.length  # refused for simplicity: descending or interleaved


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(
        st.tuples(
            st.sampled_from(Kind),
            st.sampled_from([0, 100, 4090, 2**63, 2**64 - 1]),
            st.sampled_from([0, 1, 8, 2**20]),
            st.sampled_from([0, 1, 3, 2**62]),
            st.sampled_from([0, 1, 8, 2**40, 2**64 - 1]),
            st.binary(max_size=30),
            st.booleans(),
        ),
        max_size=4,
    ),
    greeted=st.booleans(),
    noise=st.binary(max_size=80),
)
def test_whatever_arrives_nothing_outside_the_region_changes(
    frames: list[tuple[Kind, int, int, int, int, bytes, bool]], greeted: bool, noise: bytes
) -> None:
    async def test(transport: TcpTransport) -> None:
        memory = np.zeros(3 * 4096, np.uint8)
        region = transport.register(memory[4096:8192])
        sent = HELLO if greeted else b""
        for number, (kind, offset, length, count, stride, trailer, known) in enumerate(frames):
            key = region.remote.key if known else 5
            sent += encode(kind, number + 2, key, Strided(offset, length, count, stride), trailer)
            sent += b"\xaa" * min(length * count, 5000)
        await answer_to(transport, sent + noise)
        assert not memory[:4096].any()
        assert not memory[8192:].any()
        peer = await TcpTransport.open(CONFIG)
        local = peer.register(np.zeros(4096, np.uint8))
        connection = await peer.connect(transport.address)
        await connection.read(local, Strided(0, 4096), region.remote, Strided(0, 4096))
        assert np.array_equal(local.view, memory[4096:8192])
        await peer.close()

    with_transport(test)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: somewhere\r\n" + bytes(100), "expected 0xd0a1"),
        (HELLO[:2] + b"\x09" + HELLO[3:], "speaks version 9"),
        (HELLO[:3] + b"\x63" + HELLO[4:], "kind 99"),
        (encode(Kind.READ, 1, 2, Strided(0, 8)), "READ before HELLO"),
        (encode(Kind.WRITE, 1, 2, Strided(0, 8)) + bytes(8), "none is due"),
        (encode(Kind.HELLO, 1, trailer=b"\xff"), "not a hello"),
        (HELLO + encode(Kind.DONE, 2), "DONE from an initiator"),
    ],
    ids=["http", "version", "kind", "read first", "write first", "no hello", "answer"],
)
def test_who_does_not_speak_the_protocol_is_told_why(sent: bytes, reason: str) -> None:
    async def test(transport: TcpTransport) -> None:
        assert reason in (await answer_to(transport, sent)).decode(errors="replace")

    with_transport(test)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (encode(Kind.FAILED, 0, trailer=b"other version"), "other version"),
        (b"220 smtp ready\r\n" + bytes(100), "expected 0xd0a1"),
        (encode(Kind.DONE, 99), "not outstanding"),
        (encode(Kind.DONE, 1) + encode(Kind.DONE, 2), "answered with DONE"),
        (encode(Kind.DONE, 1) + encode(Kind.DATA, 2, at=Strided(0, 9)) + bytes(9), "9 bytes for a read of 8"),
        (encode(Kind.DONE, 1) + encode(Kind.DATA, 3, at=Strided(0, 8)) + bytes(8), "awaits none"),
        (encode(Kind.DONE, 1) + encode(Kind.READ, 2, at=Strided(0, 8)), "answered with READ"),
        (encode(Kind.DONE, 1), "closed the connection"),
        (b"", "closed the connection"),
    ],
    ids=["refusal", "smtp", "unknown", "done", "size", "unasked", "request", "end", "nothing"],
)
def test_a_target_that_answers_wrongly_fails_the_operation(answers: bytes, reason: str) -> None:
    async def answer(sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        greeting = await reader.readexactly(HEADER_BYTES)
        await reader.readexactly(decode(bytearray(greeting)).trailer_bytes)
        if answers.startswith(encode(Kind.DONE, 1)):
            writer.write(answers[:HEADER_BYTES])
            await reader.readexactly(HEADER_BYTES)
            writer.write(answers[HEADER_BYTES:])
        else:
            writer.write(answers)
        writer.close()

    async def test(transport: TcpTransport) -> None:
        answering: list[asyncio.Task[None]] = []
        target = Entrance.open(CONFIG, lambda sock, _: answering.append(asyncio.create_task(answer(sock))))
        local = transport.register(np.zeros(8, np.uint8))

        async def read() -> None:
            connection = await transport.connect(target.address)
            await connection.read(local, Strided(0, 8), RemoteRegion(5, 8), Strided(0, 8))

        with pytest.raises(TransferError, match=reason) as caught:
            await read()
        assert caught.value.peer == target.address
        await asyncio.gather(*answering)
        await target.close()

    with_transport(test)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "127.0.0.1:port", "127.0.0.1:99999", ""])
def test_an_address_where_nobody_listens_is_an_error(address: str) -> None:
    async def test(transport: TcpTransport) -> None:
        with pytest.raises(TransferError) as caught:
            await transport.connect(address)
        assert caught.value.peer == address
        assert caught.value.operation == "connect"

    with_transport(test)


def test_an_address_that_is_not_ours_cannot_be_listened_on() -> None:
    with pytest.raises(TransferError, match="cannot listen"):
        asyncio.run(TcpTransport.open(TransportConfig(kind="tcp", bind_address="192.0.2.1")))


def test_the_traffic_class_marks_both_directions() -> None:
    async def test(transport: TcpTransport) -> None:
        peer = await TcpTransport.open(CONFIG)
        for traffic_class, tos in (("low", 0), ("high", 0xB8)):
            connection = await peer.connect(transport.address, traffic_class)  # type: ignore[arg-type]
            (target,) = transport._targets
            for end in (connection, target):
                assert end._sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == tos
            connection.lose("seen")
            while transport._targets:  # noqa: ASYNC110 - the transport tells nobody
                await asyncio.sleep(0)
        await peer.close()

    with_transport(test)


PACED = TransportConfig(kind="tcp", timeout_s=2.0, pace_bytes_per_s=20e6)


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("at_target", [False, True])
def test_a_region_deregistered_in_mid_transfer_changes_no_more(write: bool, at_target: bool) -> None:
    nbytes = 4 << 20

    async def test(target: TcpTransport) -> None:
        initiator = await TcpTransport.open(PACED)
        local = initiator.register(np.full(nbytes, 1, np.uint8))
        remote = target.register(np.full(nbytes, 2, np.uint8))
        connection = await initiator.connect(target.address)
        whole = Strided(0, nbytes)
        operation = connection.write if write else connection.read
        transfer = asyncio.create_task(operation(local, whole, remote.remote, whole))
        changing = remote.view if write else local.view
        while changing[0] == changing[-1] and changing[0] == (2 if write else 1):  # noqa: ASYNC110 - memory tells nobody when it changes
            await asyncio.sleep(0.001)
        if at_target:
            target.deregister(remote)
        else:
            initiator.deregister(local)
        before = changing.copy()
        with pytest.raises(TransferError, match=r"deregistered|closed|reset"):
            await transfer
        if at_target == write:  # whoever deregistered owns the memory that was changing
            assert np.array_equal(changing, before)
        await initiator.close()

    with_transport(test, PACED)


def test_a_shut_inlet_takes_the_rest_of_its_payload_elsewhere() -> None:
    region = Region(np.zeros(1000, np.uint8))
    inlet = Inlet(region, Strided(0, 50, 10, 100))
    staging = np.zeros(1 << 18, np.uint8)
    taken = 0
    for chunk in Inlet(None, Strided(0, 3 << 20)).chunks(staging):
        taken += len(chunk)
    assert taken == 3 << 20
    for chunk in inlet.chunks(staging):
        chunk[:] = b"\x01" * len(chunk)
        inlet.shut()
    assert not region.view.any()
