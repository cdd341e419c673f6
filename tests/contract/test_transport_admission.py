"""Every transport that has a network connects hosts of one run, and refuses everybody else in words."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from transports import BETWEEN_PROCESSES, SLOWNESS, Pair, config_of, over_pair

from hosts.transport import Strided, TransferError, open_transport
from hosts.transport.entrance import MAX_STRANGERS
from hosts.transport.proof import MAGIC, NONCE_BYTES, PROOF_BYTES, REFUSAL, proof

KEY = secrets.token_bytes(32)
EVERY = pytest.mark.parametrize("kind", BETWEEN_PROCESSES)


async def goes_on(ends: Pair) -> None:
    """The connection that was there before serves, and the target takes new ones of the run."""
    whole = Strided(0, ends.remote.remote.length)
    await ends.connection.read(ends.local, whole, ends.remote.remote, whole)
    assert np.array_equal(ends.local.view, ends.remote.view)
    await (await ends.initiator.connect(ends.target.address, "high")).notify(b"still here")


@asynccontextmanager
async def stranger(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def challenge(reader: asyncio.StreamReader) -> bytes:
    """The target's nonce."""
    greeting = await reader.readexactly(len(MAGIC) + NONCE_BYTES)
    assert greeting.startswith(MAGIC)
    return greeting[len(MAGIC) :]


@EVERY
@pytest.mark.parametrize("key", [secrets.token_bytes(32), b""], ids=["another run's key", "no key"])
def test_who_has_not_the_runs_key_is_refused_in_words(
    kind: str, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(ends: Pair) -> None:
        other = await open_transport(config_of(kind, 0, key=key))
        try:
            with pytest.raises(TransferError, match="this end does not have its run's key") as caught:
                await other.connect(ends.target.address)
            assert caught.value.peer == ends.target.address
            # Nor does the run connect to it.
            with pytest.raises(TransferError, match="does not have its run's key"):
                await ends.initiator.connect(other.address)
        finally:
            await other.close()
        await goes_on(ends)

    over_pair(kind, test, key=KEY)
    assert f"refused {config_of(kind, 0).bind_address}:" in caplog.text
    assert "it does not have this run's key" in caplog.text
    for secret in (KEY, key or KEY):
        assert secret.hex() not in caplog.text
        assert repr(secret) not in caplog.text


@EVERY
def test_a_recorded_proof_is_refused(kind: str) -> None:
    async def test(ends: Pair) -> None:
        address, nonce = ends.target.address, secrets.token_bytes(NONCE_BYTES)
        async with stranger(address) as (reader, writer):
            sent = nonce + proof(KEY, "initiator", address, nonce, await challenge(reader))
            writer.write(sent)
            assert await reader.readexactly(PROOF_BYTES) != REFUSAL
        async with stranger(address) as (reader, writer):
            await challenge(reader)
            writer.write(sent)
            assert await reader.readexactly(PROOF_BYTES) == REFUSAL
            assert await reader.read() == b""
        await goes_on(ends)

    over_pair(kind, test, key=KEY)


@EVERY
def test_a_target_that_sends_proofs_back_or_passes_them_on_is_refused(kind: str) -> None:
    async def test(ends: Pair) -> None:
        async def reflect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(MAGIC + bytes(NONCE_BYTES))
            writer.write((await reader.readexactly(NONCE_BYTES + PROOF_BYTES))[NONCE_BYTES:])
            writer.close()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async with stranger(ends.target.address) as (there, back):
                writer.write(MAGIC + await challenge(there))
                back.write(await reader.readexactly(NONCE_BYTES + PROOF_BYTES))
                writer.write(await there.readexactly(PROOF_BYTES))
                writer.close()

        for attack, reason in ((reflect, "it does not have this run's key"), (relay, "it refused")):
            server = await asyncio.start_server(attack, config_of(kind, 1).bind_address, 0)
            host, port = server.sockets[0].getsockname()
            with pytest.raises(TransferError, match=reason):
                await ends.initiator.connect(f"{host}:{port}")
            server.close()
            await server.wait_closed()
        await goes_on(ends)

    over_pair(kind, test, key=KEY)


@EVERY
def test_strangers_that_say_nothing_are_few_and_do_not_stay(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    timeout_s = 1.0 * SLOWNESS[kind]

    async def test(ends: Pair) -> None:
        host, port = ends.target.address.split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(MAX_STRANGERS)]
        try:
            async with stranger(ends.target.address) as (reader, _):
                assert await reader.read() == b""  # closed at once, without a challenge
            assert "connections have proved nothing yet" in caplog.text
            whole = Strided(0, ends.remote.remote.length)
            await ends.connection.read(ends.local, whole, ends.remote.remote, whole)
            async with asyncio.timeout(3 * timeout_s):
                for sock in silent:
                    sock.setblocking(False)
                    while await asyncio.get_running_loop().sock_recv(sock, 64):
                        pass  # the challenge, then the end
        finally:
            for sock in silent:
                sock.close()
        await goes_on(ends)

    with caplog.at_level(logging.WARNING):
        over_pair(kind, test, key=KEY, timeout_s=timeout_s)
    assert f"no proof within {timeout_s:g} s" in caplog.text or "connections have" in caplog.text
    assert caplog.text.count("refused") < 20  # nobody fills the log


@EVERY
@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: somewhere\r\n" + bytes(100), bytes(64)], ids=["http", "zeros"]
)
def test_a_stranger_that_says_something_else_is_refused(kind: str, said: bytes) -> None:
    async def test(ends: Pair) -> None:
        async with stranger(ends.target.address) as (reader, writer):
            writer.write(said)
            await challenge(reader)
            assert await reader.read(PROOF_BYTES) in (REFUSAL, b"")
        await goes_on(ends)

    over_pair(kind, test, key=KEY)


def test_the_key_does_not_show() -> None:
    assert KEY.hex() not in repr(config_of("tcp", 0, key=KEY))
    assert repr(KEY)[2:-1] not in repr(config_of("tcp", 0, key=KEY))
