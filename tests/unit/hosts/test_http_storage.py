"""The HTTP client against servers that answer wrongly, slowly or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.config import StorageConfig
from hosts.storage import Storage, StorageError, open_storage

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def with_server(answer: Handler, test: Callable[[Storage], Coroutine[Any, Any, None]]) -> None:
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        config = StorageConfig(kind="http", url=f"http://127.0.0.1:{port}/kv", timeout_s=0.3)
        storage = await open_storage(config)
        try:
            async with asyncio.timeout(20):
                await test(storage)
        finally:
            await storage.close()
            server.close()
            await server.wait_closed()
            await asyncio.gather(*serving)

    asyncio.run(run())


def answering(*answers: bytes) -> Handler:
    """A server that gives one answer a request and then closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for each in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(each)
            await writer.drain()

    return answer


GOOD = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\nContent-Range: bytes 0-3/10\r\n\r\nabcd"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 206 Partial", "closed the connection"),
        (GOOD[:-1], "closed the connection"),
        (GOOD + b"more", "of body, 4 announced"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "expected HTTP/1.1"),
        (b"HTTP/1.1 206 X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n", "Content-Length"),
        (b"HTTP/1.1 206 X\r\nContent-Length: -4\r\n\r\nabcd", "Content-Length"),
        (GOOD.replace(b"0-3", b"1-4"), "unexpected answer"),
        (GOOD.replace(b"th: 4", b"th: 3").replace(b"0-3/10", b"0-2/3")[:-1], "the object has 3 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd", "whole object"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status=503"),
        (b"HTTP/1.1 206 X\r\n" + b"X-Pad: " + b"a" * 20_000 + b"\r\n\r\n", "longer than"),
    ],
)
def test_a_wrong_answer_is_an_error_that_says_so(answer: bytes, reason: str) -> None:
    async def test(storage: Storage) -> None:
        into = bytearray(4)
        with pytest.raises(StorageError, match=reason):
            await storage.read_into("a", 0, memoryview(into))

    with_server(answering(answer), test)


def test_the_head_may_come_byte_by_byte_and_with_any_case() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        assert request.startswith(b"GET /kv/s/a HTTP/1.1\r\n")
        assert b"\r\nRange: bytes=0-3\r\n" in request
        for byte in GOOD.replace(b"Content-", b"cOnTENT-"):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async def test(storage: Storage) -> None:
        into = bytearray(4)
        await storage.read_into("s/a", 0, memoryview(into))
        assert into == b"abcd"
        assert storage.bytes_read == 4

    with_server(answer, test)


def test_a_connection_closed_while_idle_is_replaced() -> None:
    async def test(storage: Storage) -> None:
        for _ in range(3):
            await storage.read_into("a", 0, memoryview(bytearray(4)))

    with_server(answering(GOOD), test)


def test_silence_is_an_error_after_the_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD[:-2])
        await reader.read()

    async def reads(storage: Storage) -> None:
        with pytest.raises(StorageError, match=r"no progress for 0\.3 s"):
            await storage.read_into("a", 0, memoryview(bytearray(4)))

    async def writes(storage: Storage) -> None:
        with pytest.raises(StorageError, match=r"no progress for 0\.3 s"):
            await storage.write("a", b"data")

    with_server(silent, reads)
    with_server(silent, writes)
    with_server(half, reads)


def test_a_refused_write_says_the_status() -> None:
    async def test(storage: Storage) -> None:
        with pytest.raises(StorageError, match="status 507"):
            await storage.write("a", b"")
        assert storage.bytes_written == 0

    with_server(answering(b"HTTP/1.1 507 Full\r\nContent-Length: 0\r\n\r\n"), test)


def test_what_the_server_has_not_taken_when_a_write_is_given_up_never_arrives() -> None:
    body, arrived, given_up = bytes(1 << 20), bytearray(), asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await given_up.wait()
        while piece := await reader.read(1 << 16):
            arrived.extend(piece)

    async def test(storage: Storage) -> None:
        with pytest.raises(StorageError, match="no progress"):
            await storage.write("a", body)
        given_up.set()

    with_server(late, test)
    assert len(arrived) < len(body)


@settings(max_examples=40, deadline=None)
@given(noise=st.binary(max_size=60), at=st.integers(0, len(GOOD)), keep=st.integers(0, len(GOOD)))
def test_no_answer_does_worse_than_an_error(noise: bytes, at: int, keep: int) -> None:
    async def test(storage: Storage) -> None:
        into = bytearray(12)

        with suppress(StorageError):
            await storage.read_into("a", 0, memoryview(into)[4:8])
        assert into[:4] == into[8:] == bytes(4)

    with_server(answering(GOOD[:at] + noise + GOOD[keep:]), test)


@pytest.mark.parametrize("url", ["", "ftp://h/", "http://", "http://h:port/", "https://h/x", "http://h/?a=b"])
def test_what_is_not_an_http_url_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="expected a URL"):
        asyncio.run(_open(url))


async def _open(url: str) -> None:
    await open_storage(StorageConfig(kind="http", url=url))
