"""What every store promises, run over each of them."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nginx_server import NGINX, nginx

from hosts.config import ReadEngine, StorageConfig
from hosts.nixl_agent import INSTALL
from hosts.storage import Storage, StorageError, open_storage
from hosts.storage.file_reads import ThreadReads

NIXL = ["posix by nixl", "posix by nixl past the page cache"] if find_spec("nixl_cu12") else []
KINDS = ["http", "posix", "posix by threads", "posix past the page cache", *NIXL, "memory"]
NOT_KEYS = ["", "/", "/etc/passwd", "a//b", "a/", "../a", "a/../b", "a/.", ".hidden", "a b", "a\n", "é"]
NOT_KEYS += ["a?b", "%2e", "x" * 300, "x/" * 600 + "x"]
needs_nixl = pytest.mark.skipif(
    not NIXL, reason=f"NOT COLLECTED: all tests over NIXL's POSIX backend; {INSTALL}, or tox -e nixl"
)
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")


def engine_of(kind: str) -> ReadEngine:
    if "nixl" in kind:
        return "nixl"
    return "threads" if kind == "posix by threads" else "io_uring"


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], StorageConfig]]:
    """The configuration of a store of each kind; nginx is started for the first that asks."""
    opened: list[Any] = []

    def config(kind: str) -> StorageConfig:
        if kind == "memory":
            return StorageConfig(kind="memory")
        if kind.startswith("posix"):
            return StorageConfig(
                kind="posix",
                root=str(tmp_path_factory.mktemp("store")),
                engine=engine_of(kind),
                cache="direct" if kind.endswith("past the page cache") else "page",
            )
        if NGINX is None:
            pytest.skip("nginx is not installed: apt-get install nginx-light")
        if not opened:
            server = nginx(tmp_path_factory.mktemp("nginx"), keepalive_requests=7)
            opened.append((server, server.__enter__()[1]))
        return StorageConfig(kind="http", url=f"{opened[0][1]}/kv/{time.monotonic_ns()}")

    yield config
    for server, _ in opened:
        server.__exit__(None, None, None)


def over(config: StorageConfig, test: Callable[[Storage], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        storage = await open_storage(config)
        try:
            async with asyncio.timeout(30):
                await test(storage)
        finally:
            await storage.close()

    asyncio.run(run())


async def read(storage: Storage, key: str, offset: int, nbytes: int) -> bytes:
    into = bytearray(nbytes)
    await storage.read_into(key, offset, memoryview(into))
    return bytes(into)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), size=st.integers(1, 400_000))
def test_a_range_is_what_was_written(
    configs: Callable[[str], StorageConfig], kind: str, data: st.DataObject, size: int
) -> None:
    stored = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    ranges = data.draw(
        st.lists(
            st.integers(0, size - 1).flatmap(lambda a: st.tuples(st.just(a), st.integers(1, size - a))),
            max_size=5,
        )
    )

    async def test(storage: Storage) -> None:
        await storage.write("session/t0/prompt", stored)
        assert storage.bytes_written == size
        for first, nbytes in ranges:
            assert await read(storage, "session/t0/prompt", first, nbytes) == stored[first : first + nbytes]
        assert storage.bytes_read == sum(nbytes for _, nbytes in ranges)

    over(configs(kind), test)


@pytest.mark.parametrize("kind", KINDS)
def test_concurrent_reads_and_writes(configs: Callable[[str], StorageConfig], kind: str) -> None:
    async def test(storage: Storage) -> None:
        objects = {f"s{n}/t{n}/prompt": os.urandom(50_000 + n) for n in range(40)}
        await asyncio.gather(*(storage.write(key, data) for key, data in objects.items()))
        found = await asyncio.gather(*(read(storage, key, 0, len(data)) for key, data in objects.items()))
        assert found == list(objects.values())

    over(configs(kind), test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_replaces_the_whole_object(configs: Callable[[str], StorageConfig], kind: str) -> None:
    async def test(storage: Storage) -> None:
        await storage.write("a", b"long enough")
        await storage.write("a", memoryview(b"short"))
        assert await read(storage, "a", 0, 5) == b"short"
        with pytest.raises(StorageError):
            await read(storage, "a", 0, 6)

    over(configs(kind), test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_object_and_a_short_one_are_errors(
    configs: Callable[[str], StorageConfig], kind: str
) -> None:
    async def test(storage: Storage) -> None:
        await storage.write("s/a", b"0123456789")
        for key in ("s/b", "t", "s/a/b"):
            with pytest.raises(StorageError) as caught:
                await read(storage, key, 0, 1)
            assert (caught.value.key, caught.value.operation) == (key, "read")
        for offset, nbytes in ((0, 11), (9, 2), (10, 1), (1000, 5)):
            with pytest.raises(StorageError, match="the object has 10 bytes"):
                await read(storage, "s/a", offset, nbytes)
        for offset, nbytes in ((-1, 2), (0, 0)):
            with pytest.raises(StorageError, match="expected >= 1 at >= 0"):
                await read(storage, "s/a", offset, nbytes)
        with pytest.raises(StorageError, match="read-only"):
            await storage.read_into("s/a", 0, memoryview(b"constant"))
        assert await read(storage, "s/a", 3, 4) == b"3456"

    over(configs(kind), test)


@pytest.mark.parametrize("kind", KINDS)
def test_delete_takes_the_prefix_and_nothing_else(configs: Callable[[str], StorageConfig], kind: str) -> None:
    async def test(storage: Storage) -> None:
        keys = ["s1/t0/prompt", "s1/t1/generated-0", "s1x/t0", "s2"]
        for key in keys:
            await storage.write(key, b"x")
        await storage.delete("s1")
        await storage.delete("s2")
        await storage.delete("s3")
        await storage.delete("s1/t0/prompt")
        assert await read(storage, "s1x/t0", 0, 1) == b"x"
        for key in ("s1/t0/prompt", "s1/t1/generated-0", "s2"):
            with pytest.raises(StorageError):
                await read(storage, key, 0, 1)

    over(configs(kind), test)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", NOT_KEYS)
def test_what_is_not_a_key_is_refused(configs: Callable[[str], StorageConfig], kind: str, key: str) -> None:
    async def test(storage: Storage) -> None:
        for call in (
            storage.write(key, b"x"),
            storage.read_into(key, 0, memoryview(bytearray(1))),
            storage.delete(key),
        ):
            with pytest.raises(StorageError):
                await call
        assert storage.bytes_written == 0

    over(configs(kind), test)


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_cancelled_read_the_buffer_is_the_callers(
    configs: Callable[[str], StorageConfig], kind: str
) -> None:
    async def test(storage: Storage) -> None:
        size = 4 << 20
        await storage.write("a", b"\xff" * size)
        buffers = [bytearray(size) for _ in range(8)]
        reads = [asyncio.create_task(storage.read_into("a", 0, memoryview(into))) for into in buffers]
        await asyncio.sleep(0.001)
        for task in reads:
            task.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        for into in buffers:
            into[:] = bytes(size)
        assert await read(storage, "a", 7, 1000) == b"\xff" * 1000
        assert not any(any(into) for into in buffers)

    over(configs(kind), test)


@pytest.mark.parametrize("kind", KINDS)
def test_closing_leaks_nothing(configs: Callable[[str], StorageConfig], kind: str) -> None:
    config = configs(kind)
    descriptors = len(os.listdir("/proc/self/fd"))

    async def test(storage: Storage) -> None:
        await storage.write("a", b"x" * 1000)
        await asyncio.gather(*(read(storage, "a", n, 10) for n in range(20)))

    over(config, test)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("kind", KINDS)
def test_pacing_bounds_reads_and_writes(configs: Callable[[str], StorageConfig], kind: str) -> None:
    config = configs(kind)
    paced = msgspec.structs.replace(config, pace_bytes_per_s=2e6)

    async def test(storage: Storage) -> None:
        began_at = time.monotonic()
        await storage.write("a", bytes(200_000))
        await asyncio.gather(*(read(storage, "a", n * 50_000, 50_000) for n in range(4)))
        assert 0.18 < time.monotonic() - began_at < 1.5
        assert (storage.bytes_read, storage.bytes_written) == (200_000, 200_000)

    over(paced, test)


@needs_nixl
def test_nixl_is_collected() -> None:
    assert set(NIXL) <= set(KINDS)


@needs_nixl
def test_nixl_is_what_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the threads that read what it cannot: the tail of a file past the page cache, errors."""

    async def nothing(*_: object) -> int:
        raise AssertionError("read by a thread")

    async def test(storage: Storage) -> None:
        await storage.write("a", bytes(range(256)) * 400)
        monkeypatch.setattr(ThreadReads, "read", nothing)
        assert await read(storage, "a", 1, 70_000) == (bytes(range(256)) * 400)[1:70_001]

    over(StorageConfig(kind="posix", root=str(tmp_path), engine="nixl"), test)


@needs_nginx
def test_http_server_killed_in_mid_read_is_an_error_at_once(tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", bytes_per_s=8 << 20) as (process, url):

        async def test(storage: Storage) -> None:
            size = 64 << 20
            await storage.write("a", b"\xff" * size)
            into = bytearray(size)
            reading = asyncio.create_task(storage.read_into("a", 0, memoryview(into)))
            while not into[0]:  # noqa: ASYNC110 - memory tells nobody when it changes
                await asyncio.sleep(0)
            process.kill()
            killed_at = time.monotonic()
            with pytest.raises(StorageError, match=r"closed|reset") as caught:
                await reading
            assert time.monotonic() - killed_at < 1
            assert (caught.value.key, caught.value.operation) == ("a", "read")
            assert url in str(caught.value)
            process.wait(10)  # it closes its connections before the socket that it listens on
            gone_at = time.monotonic()
            with pytest.raises(StorageError, match="refused"):
                await read(storage, "a", 0, 1)
            assert time.monotonic() - gone_at < 1

        over(StorageConfig(kind="http", url=url), test)
