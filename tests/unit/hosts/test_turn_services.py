"""One turn through the real services of a prefill and a decode host, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hosts.config import Geometry, StorageConfig, TransportConfig
from hosts.content import fill_blocks, mismatched
from hosts.decode import DecodeService, TurnError
from hosts.host import Host, open_host
from hosts.prefill import PrefillService
from hosts.protocol import (
    HostConfig,
    PrefillFailed,
    PrefillRequest,
    ReadPath,
    StoredObject,
    TurnDone,
    TurnOrder,
    decode_in_band,
    encode,
)
from hosts.storage import StorageError
from workloads.layout import BlockRange, Span

SEED = 7
GEOMETRY = Geometry(layers=5, block_tokens=64, layer_block_bytes=41)
BLOCK_BYTES = GEOMETRY.full_block_bytes
HITS, NEW, TAIL = 12, 3, 1


def config(name: str, root: Path, role: str) -> HostConfig:
    return HostConfig(
        host=name,
        role="prefill" if role == "prefill" else "decode",
        engines=1,
        geometry=GEOMETRY,
        buffer_bytes=1 << 20,
        storage=StorageConfig(kind="posix", root=str(root), read_chunk_bytes=700),
        transport=TransportConfig(kind="memory"),
        nics=(),
        model="dualpath-27b",
        gpu_flops=1e18,
        decode_step_s=1e-4,
        time_dilation=1.0,
        content_seed=SEED,
        verify_every=1,
        telemetry_interval_s=0.1,
        turn_timeout_s=5.0,
    )


def order(path: ReadPath, key: str = "prime/s") -> TurnOrder:
    return TurnOrder(
        turn_id=3,
        path=path,
        prefill_host="p0",
        prefill_engine=0,
        decode_engine=0,
        hit_blocks=(BlockRange(0, HITS),),
        reads=(Span(key, 2, HITS),),
        new_blocks=(BlockRange(100, NEW),),
        prompt_key="rep/s/t1/prompt",
        generated=(StoredObject("rep/s/t1/generated-0", (BlockRange(200, 1),)),),
        hit_tokens=HITS * 64,
        new_tokens=NEW * 64 + TAIL,
        tail_tokens=TAIL,
        output_tokens=70,
    )


class Pair:
    """A prefill and a decode host, wired as the agent wires them."""

    def __init__(self, prefill: Host, decode: Host) -> None:
        self.prefill_host, self.decode_host = prefill, decode
        self.events: list[Any] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.prefill = PrefillService(prefill, self._on_read_done)
        self.decode = DecodeService(decode, self._report)
        prefill.transport.on_notification(self._to_prefill)
        decode.transport.on_notification(self._to_decode)
        for host in (prefill, decode):
            host.peers = {"p0": prefill.transport.address, "d0": decode.transport.address}

    async def _on_read_done(self, turn_id: int) -> None:
        self.events.append(("read by prefill host", turn_id))

    async def _report(self, event: Any) -> None:
        self.events.append(event)

    def _to_prefill(self, payload: bytes) -> None:
        request = decode_in_band(payload)
        assert isinstance(request, PrefillRequest)
        self._start(self._serve(request))

    async def _serve(self, request: PrefillRequest) -> None:
        try:
            await self.prefill.serve(request)
        except StorageError as error:
            decode_host = await self.prefill_host.peer("d0")
            await decode_host.notify(encode(PrefillFailed(request.order.turn_id, str(error))))

    def _to_decode(self, payload: bytes) -> None:
        answer = decode_in_band(payload)
        assert not isinstance(answer, PrefillRequest)
        self.decode.on_prefill(answer)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))


@asynccontextmanager
async def pair(root: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        prefill = await stack.enter_async_context(open_host(config("p0", root, "prefill")))
        decode = await stack.enter_async_context(open_host(config("d0", root, "decode")))
        primed = np.empty((HITS + 2, BLOCK_BYTES), np.uint8)
        fill_blocks(primed, SEED, np.arange(-2, HITS))
        await decode.storage.write("prime/s", primed.reshape(-1).data)
        hosts = Pair(prefill, decode)
        yield hosts
        await asyncio.gather(*hosts.tasks)
        assert prefill.arena.free_bytes == prefill.arena.capacity_bytes
        assert decode.arena.free_bytes == decode.arena.capacity_bytes


def stored(root: Path, key: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer((root / key).read_bytes(), np.uint8).reshape(-1, BLOCK_BYTES)


@pytest.mark.parametrize(
    ("path", "reader", "layer_read_blocks", "layer_write_blocks"),
    [("prefill", "p0", 0, HITS + NEW + 1), ("decode", "d0", HITS, NEW + 1)],
)
def test_a_turn_moves_the_bytes_of_its_path_and_persists_the_new_blocks(
    tmp_path: Path, path: ReadPath, reader: str, layer_read_blocks: int, layer_write_blocks: int
) -> None:
    async def turn() -> tuple[TurnDone, Pair]:
        async with pair(tmp_path) as hosts:
            await hosts.decode.serve(order(path))
            return hosts.events[-1], hosts

    done, hosts = asyncio.run(turn())
    moved = {t.kind: (t.host, t.bytes, t.operations) for t in done.transfers if t.kind != "storage_write"}
    assert moved["storage_read"] == (reader, HITS * BLOCK_BYTES, 1)
    assert moved["layer_write"] == ("p0", layer_write_blocks * BLOCK_BYTES, GEOMETRY.layers)
    if layer_read_blocks:
        assert moved["layer_read"] == ("p0", layer_read_blocks * BLOCK_BYTES, GEOMETRY.layers)
    else:
        assert "layer_read" not in moved
    assert done.mismatched_blocks == 0
    assert done.verified_blocks >= HITS + NEW
    assert done.persisted_bytes == (NEW + 1) * BLOCK_BYTES
    assert len(mismatched(stored(tmp_path, "rep/s/t1/prompt"), SEED, np.arange(100, 100 + NEW))) == 0
    assert len(mismatched(stored(tmp_path, "rep/s/t1/generated-0"), SEED, np.array([200]))) == 0
    names = [e[0] if isinstance(e, tuple) else type(e).__name__ for e in hosts.events]
    read = "read by prefill host" if path == "prefill" else "ReadDone"
    assert names == [read, "FirstToken", "TurnDone"]


def test_the_oracle_moves_nothing(tmp_path: Path) -> None:
    async def turn() -> TurnDone:
        async with pair(tmp_path) as hosts:
            await hosts.decode.serve(order("none"))
            done = hosts.events[-1]
            assert isinstance(done, TurnDone)
            return done

    done = asyncio.run(turn())
    assert (done.transfers, done.persisted_bytes, done.verified_blocks) == ((), 0, 0)
    assert done.compute_ns > 0


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_a_block_that_is_not_what_it_should_be_is_counted(tmp_path: Path, path: ReadPath) -> None:
    async def turn() -> TurnDone:
        async with pair(tmp_path) as hosts:
            data = bytearray((tmp_path / "prime/s").read_bytes())
            data[-1] ^= 1  # the last byte of the last hit block
            (tmp_path / "prime/s").write_bytes(data)
            await hosts.decode.serve(order(path))
            done = hosts.events[-1]
            assert isinstance(done, TurnDone)
            return done

    assert asyncio.run(turn()).mismatched_blocks >= 1


def test_a_failure_on_the_prefill_host_reaches_the_turns_owner(tmp_path: Path) -> None:
    async def turn() -> None:
        async with pair(tmp_path) as hosts:
            await hosts.decode.serve(order("prefill", key="prime/missing"))

    with pytest.raises(TurnError, match=r"prime/missing.*No such file"):
        asyncio.run(turn())


def test_a_missing_object_on_the_decode_path_fails_the_turn_and_frees_its_buffer(tmp_path: Path) -> None:
    async def turn() -> None:
        async with pair(tmp_path) as hosts:
            with pytest.raises(StorageError, match="prime/missing"):
                await hosts.decode.serve(order("decode", key="prime/missing"))

    asyncio.run(turn())
