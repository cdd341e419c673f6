"""Turns between two agents in one process, of any shape and going wrong: memory transport and storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.agent import Agent
from hosts.config import Geometry, StorageConfig, TransportConfig
from hosts.content import fill_blocks
from hosts.protocol import (
    FirstToken,
    HostConfig,
    Message,
    Peers,
    ReadDone,
    ReadPath,
    Ready,
    Role,
    StoredObject,
    TurnDone,
    TurnOrder,
)
from hosts.transport.memory import MemoryTransport
from workloads.layout import BlockRange, Span, to_ranges

GEOMETRY = Geometry(layers=5, block_tokens=16, layer_block_bytes=24)
BLOCK = GEOMETRY.full_block_bytes
SEED = 7
TAIL = -1


def config(name: str, role: Role, **change: Any) -> HostConfig:
    return msgspec.structs.replace(
        HostConfig(
            host=name,
            role=role,
            engines=1,
            geometry=GEOMETRY,
            buffer_bytes=64 * BLOCK,
            storage=StorageConfig("memory", read_chunk_bytes=100),
            transport=TransportConfig("memory"),
            nics=(),
            model="dualpath-27b",
            gpu_flops=1e30,
            decode_step_s=1e-9,
            time_dilation=1.0,
            content_seed=SEED,
            verify_every=1,
            telemetry_interval_s=0.1,
            turn_timeout_s=5.0,
        ),
        **change,
    )


class Pair:
    """Two configured agents that know each other, without a control node: what they report is kept."""

    def __init__(self, prefill: Agent, decode: Agent) -> None:
        self.prefill, self.decode = prefill, decode

    async def serve(self, order: TurnOrder) -> list[Message]:
        """One turn; what the two agents reported, the decode host's part last."""
        await self.decode._serve_turn(order)
        await asyncio.gather(*self.prefill._tasks)
        return [
            agent._outbox.get_nowait().body
            for agent in (self.prefill, self.decode)
            for _ in range(agent._outbox.qsize())
        ]

    async def store(self, host: Agent, key: str, ids: list[int]) -> None:
        await host._store(StoredObject(key, to_ranges(np.array(ids, np.int64))))

    def all_free(self) -> bool:
        arenas = [agent._host.arena for agent in (self.prefill, self.decode)]
        return all(arena.free_bytes == arena.capacity_bytes for arena in arenas)


@asynccontextmanager
async def agents(**change: Any) -> AsyncIterator[Pair]:
    pair = Pair(Agent("p0"), Agent("d0"))
    async with pair.prefill._resources, pair.decode._resources:
        ready = {
            "p0": await pair.prefill._configure(config("p0", "prefill", **change)),
            "d0": await pair.decode._configure(config("d0", "decode", **change)),
        }
        assert all(isinstance(answer, Ready) for answer in ready.values())
        for agent in (pair.prefill, pair.decode):
            await agent._perform(Peers({host: answer.transport_address for host, answer in ready.items()}))
        yield pair


def run(test: Callable[[Pair], Coroutine[Any, Any, None]], **change: Any) -> None:
    async def inside() -> None:
        async with agents(**change) as pair:
            await test(pair)

    asyncio.run(inside())


def order(
    path: ReadPath, hits: int = 5, new: int = 3, tail_tokens: int = 10, generated: int = 0, turn_id: int = 1
) -> TurnOrder:
    """Blocks 100, 101, ... of which the first ``hits`` are read from two objects."""
    first = hits // 2
    reads = [Span("prime/a", 1, first), Span("prime/b", 0, hits - first)]
    ids = range(100 + hits + new, 100 + hits + new + generated)
    prompt_tokens = (hits + new) * GEOMETRY.block_tokens + tail_tokens
    return TurnOrder(
        turn_id=turn_id,
        path=path,
        prefill_host="p0",
        prefill_engine=0,
        decode_engine=0,
        hit_blocks=(BlockRange(100, hits),) if hits else (),
        reads=tuple(span for span in reads if span.blocks) if path != "none" else (),
        new_blocks=(BlockRange(100 + hits, new),) if new else (),
        prompt_key="r/prompt" if new else "",
        generated=tuple(StoredObject(f"r/generated-{i}", (BlockRange(i, 1),)) for i in ids),
        hit_tokens=hits * GEOMETRY.block_tokens,
        new_tokens=max(1, prompt_tokens - hits * GEOMETRY.block_tokens),
        tail_tokens=tail_tokens,
        output_tokens=generated * GEOMETRY.block_tokens + 1,
    )


async def prime(pair: Pair, path: ReadPath, hits: int = 5) -> None:
    """Store the hit on the side that reads; ``prime/a`` begins with a block that is not part of it."""
    reader = pair.prefill if path == "prefill" else pair.decode
    first = hits // 2
    await pair.store(reader, "prime/a", [99, *range(100, 100 + first)])
    await pair.store(reader, "prime/b", list(range(100 + first, 100 + hits)))


def content(ids: list[int]) -> np.ndarray[Any, Any]:
    out = np.empty((len(ids), BLOCK), np.uint8)
    fill_blocks(out, SEED, np.array(ids, np.int64))
    return out


def of_kind(done: TurnDone) -> dict[str, int]:
    return {transfer.kind: transfer.bytes for transfer in done.transfers}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # Hit, missed and the partial last block all come from the prefill host.
        ("prefill", {"storage_read": 5 * BLOCK, "layer_write": 9 * BLOCK, "storage_write": 3 * BLOCK}),
        # The hit crosses once to the prefill host, only what it computed comes back.
        (
            "decode",
            {
                "storage_read": 5 * BLOCK,
                "layer_read": 5 * BLOCK,
                "layer_write": 4 * BLOCK,
                "storage_write": 3 * BLOCK,
            },
        ),
    ],
)
def test_a_turn_moves_exactly_these_bytes_and_persists_what_is_new(
    path: ReadPath, expected: dict[str, int]
) -> None:
    async def test(pair: Pair) -> None:
        await prime(pair, path)
        read_done, first_token, done = await pair.serve(order(path))
        assert (read_done, first_token) == (ReadDone(1), FirstToken(1))
        assert isinstance(done, TurnDone)
        assert of_kind(done) == expected
        # Every full block at the decode host; on its read path also the hit as it arrived for one layer.
        assert done.verified_blocks == 8 + (5 if path == "decode" else 0)
        assert done.mismatched_blocks == 0
        persisted = np.empty((3, BLOCK), np.uint8)
        await pair.decode._host.storage.read_into("r/prompt", 0, memoryview(persisted.reshape(-1).data))
        np.testing.assert_array_equal(persisted, content([105, 106, 107]))
        reader = {"prefill": "p0", "decode": "d0"}[path]
        assert {t.kind: t.host for t in done.transfers}["storage_read"] == reader
        assert all(t.begin_at_ns <= t.end_at_ns for t in done.transfers)

    run(test)


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_what_an_earlier_turn_left_in_a_buffer_does_not_pass_for_a_read(
    path: ReadPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reads_nothing(*_: object) -> None:
        return None

    async def test(pair: Pair) -> None:
        await prime(pair, path)
        *_, first = await pair.serve(order(path))
        reader = pair.prefill if path == "prefill" else pair.decode
        monkeypatch.setattr(reader._host.storage, "read_into", reads_nothing)
        *_, second = await pair.serve(order(path))  # the same blocks at the same place
        assert isinstance(first, TurnDone)
        assert isinstance(second, TurnDone)
        assert (first.mismatched_blocks, second.mismatched_blocks > 0) == (0, True)

    run(test)


@settings(max_examples=30)
@given(
    path=st.sampled_from(["prefill", "decode"]),
    hits=st.integers(0, 6),
    new=st.integers(0, 4),
    tail_tokens=st.sampled_from([0, 1, 15]),
    generated=st.integers(0, 2),
)
def test_any_shape_of_turn_is_byte_exact(
    path: ReadPath, hits: int, new: int, tail_tokens: int, generated: int
) -> None:
    tail = 1 if tail_tokens else 0
    if not hits + new + tail:
        return

    async def test(pair: Pair) -> None:
        await prime(pair, path, hits)
        done = (await pair.serve(order(path, hits, new, tail_tokens, generated)))[-1]
        assert isinstance(done, TurnDone)
        moved = of_kind(done)
        assert moved["storage_read"] == hits * BLOCK
        assert moved.get("layer_read", 0) == (hits * BLOCK if path == "decode" else 0)
        assert moved["layer_write"] == (new + tail + (hits if path == "prefill" else 0)) * BLOCK
        assert done.persisted_bytes == (new + generated) * BLOCK
        assert done.mismatched_blocks == 0
        ids = [*range(100, 100 + hits + new), *[TAIL] * tail]
        np.testing.assert_array_equal(pair.decode._host.blocks(0, len(ids)), content(ids))
        assert pair.all_free()

    run(test)


def test_oracle_moves_nothing() -> None:
    async def test(pair: Pair) -> None:
        first_token, done = await pair.serve(order("none", generated=1))
        assert first_token == FirstToken(1)
        assert isinstance(done, TurnDone)
        assert done.transfers == ()
        assert (done.persisted_bytes, done.verified_blocks) == (0, 0)
        assert pair.decode._host.storage.bytes_written == 0

    run(test)


def test_generated_blocks_are_persisted_one_by_one() -> None:
    async def test(pair: Pair) -> None:
        await prime(pair, "prefill")
        done = (await pair.serve(order("prefill", generated=2)))[-1]
        assert isinstance(done, TurnDone)
        assert [t.bytes for t in done.transfers if t.kind == "storage_write"] == [3 * BLOCK, BLOCK, BLOCK]
        block = np.empty((1, BLOCK), np.uint8)
        await pair.decode._host.storage.read_into("r/generated-109", 0, memoryview(block.reshape(-1).data))
        np.testing.assert_array_equal(block, content([109]))

    run(test)


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_wrong_bytes_in_storage_are_noticed(path: ReadPath, caplog: pytest.LogCaptureFixture) -> None:
    async def test(pair: Pair) -> None:
        reader = pair.prefill if path == "prefill" else pair.decode
        await pair.store(reader, "prime/a", [99, 100, 555])
        await pair.store(reader, "prime/b", [102, 103, 104])
        done = (await pair.serve(order(path)))[-1]
        assert isinstance(done, TurnDone)
        assert done.mismatched_blocks == (1 if path == "prefill" else 2)
        assert "turn 1: 1 blocks differ from their content: 101" in caplog.text

    run(test)


def test_failure_on_the_prefill_side_reaches_the_decode_side() -> None:
    async def test(pair: Pair) -> None:
        [failed] = await pair.serve(order("prefill"))
        assert failed.turn_id == 1
        assert failed.host == "d0"
        assert "prefill host p0: StorageError: read of 'prime/a'" in failed.reason
        assert "no such object" in failed.reason
        assert pair.all_free()
        await prime(pair, "prefill")
        assert isinstance((await pair.serve(order("prefill", turn_id=2)))[-1], TurnDone)

    run(test)


def test_failure_on_the_decode_side_frees_its_buffer() -> None:
    async def test(pair: Pair) -> None:
        [failed] = await pair.serve(order("decode"))
        assert failed.reason.startswith("StorageError: read of 'prime/a'")
        assert pair.all_free()

    run(test)


def test_prefill_failure_goes_to_the_control_node_if_the_decode_host_is_gone() -> None:
    async def test(pair: Pair) -> None:
        turn = asyncio.create_task(pair.decode._serve_turn(order("prefill")))
        while not pair.prefill._tasks:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await pair.decode._host.transport.close()
        await asyncio.gather(*pair.prefill._tasks)
        failed = pair.prefill._outbox.get_nowait().body
        assert (failed.host, failed.turn_id) == ("p0", 1)
        assert "no such endpoint" in failed.reason or "closed" in failed.reason
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)

    run(test)


def test_a_turn_that_gets_no_answer_ends_at_its_deadline() -> None:
    async def test(pair: Pair) -> None:
        deaf = MemoryTransport(TransportConfig("memory"))
        deaf.on_notification(lambda payload: None)
        pair.decode._host.peers["p0"] = deaf.address
        [failed] = await pair.serve(order("prefill"))
        assert failed.reason == "deadline passed"
        assert pair.all_free()
        await deaf.close()

    run(test, turn_timeout_s=0.05)


def test_turns_on_one_engine_take_turns_and_buffers_bound_them() -> None:
    async def test(pair: Pair) -> None:
        await prime(pair, "prefill")
        await asyncio.gather(*(pair.decode._serve_turn(order("prefill", turn_id=i)) for i in range(1, 7)))
        await asyncio.gather(*pair.prefill._tasks)
        bodies = [pair.decode._outbox.get_nowait().body for _ in range(pair.decode._outbox.qsize())]
        assert sorted(b.turn_id for b in bodies if isinstance(b, TurnDone)) == [1, 2, 3, 4, 5, 6]
        assert all(b.mismatched_blocks == 0 for b in bodies if isinstance(b, TurnDone))
        assert pair.all_free()

    run(test, buffer_bytes=20 * BLOCK)
