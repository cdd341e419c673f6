"""Turns between agents of one process, of any shape: which bytes move, when, and what they are."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process_hosts import (
    A_BLOCK_A_PASS,
    BLOCK,
    FAST,
    FIRST_HIT,
    GEOMETRY,
    TAIL,
    content,
    engine,
    first_new,
    hosts,
    of_kind,
    order,
    passes_of,
    store,
    stored,
    the_done,
)

from hosts.protocol import (
    DecodePartRead,
    Fetch,
    FirstToken,
    PrefillRequest,
    ReadDone,
    StoredObject,
    TurnDone,
    encode,
)
from workloads.layout import BlockRange
from workloads.models import find_model, kv_bytes_per_token

HITS = 5
DECODE_HITS = {"prefill": 0, "decode": HITS, "split": 3}
KV_BYTES_PER_TOKEN = kv_bytes_per_token(find_model("dualpath-27b"))
each_path = pytest.mark.parametrize("path", DECODE_HITS)
each_switch = pytest.mark.parametrize("layerwise", [True, False])


@each_switch
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
        # The prefix is treated as on the one path, the rest as on the other.
        (
            "split",
            {
                "storage_read": 5 * BLOCK,
                "layer_read": 3 * BLOCK,
                "layer_write": 6 * BLOCK,
                "storage_write": 3 * BLOCK,
            },
        ),
    ],
)
def test_a_turn_moves_exactly_these_bytes_and_persists_what_is_new(
    path: str, expected: dict[str, int], layerwise: bool
) -> None:
    async def test() -> None:
        async with hosts(layerwise=layerwise) as pair:
            decode_hits = DECODE_HITS[path]
            *events, done = await pair.serve(order(decode_hits=decode_hits))
            readers = 2 if path == "split" else 1
            assert events == [*[ReadDone(1)] * readers, FirstToken(1)]
            assert isinstance(done, TurnDone)
            assert of_kind(done) == expected
            assert done.chunks == 1
            # Every full block at the decode host; what that one read also as it arrived for one layer.
            assert done.verified_blocks == 8 + decode_hits
            assert done.mismatched_blocks == 0
            expected_prompt = content([*range(100, 105), *range(1000, 1003), TAIL])
            np.testing.assert_array_equal(pair["d0"]._host.blocks(0, 9), expected_prompt)
            np.testing.assert_array_equal(await stored(pair["d0"], "r/1/prompt", 3), expected_prompt[5:8])
            read = {t.host: t.bytes for t in done.transfers if t.kind == "storage_read"}
            parts = {"d0": decode_hits * BLOCK, "p0": (HITS - decode_hits) * BLOCK}
            assert read == {host: nbytes for host, nbytes in parts.items() if nbytes}
            assert all(t.begin_at_ns <= t.end_at_ns for t in done.transfers)
            pair.assert_all_given_back()

    asyncio.run(test())


@settings(max_examples=60)
@given(data=st.data(), hits=st.integers(0, 6), new=st.integers(0, 4), generated=st.integers(0, 2))
def test_any_shape_of_turn_is_byte_exact(data: st.DataObject, hits: int, new: int, generated: int) -> None:
    tail_tokens = data.draw(st.sampled_from([0, 1, 15] if hits + new else [1, 15]), "tail_tokens")
    decode_hits = data.draw(st.integers(0, hits), "decode_hits")
    layerwise = data.draw(st.booleans(), "layerwise")
    chunked = data.draw(st.booleans(), "chunked")
    tail = 1 if tail_tokens else 0

    async def test() -> None:
        async with hosts(layerwise=layerwise, engine=A_BLOCK_A_PASS if chunked else FAST) as pair:
            turn = order(
                hits=hits, decode_hits=decode_hits, new=new, tail_tokens=tail_tokens, generated=generated
            )
            done = the_done(await pair.serve(turn))
            assert done.chunks == (-(-turn.new_tokens // GEOMETRY.block_tokens) if chunked else 1)
            # Layerwise, HBM keeps no layer from one chunk to the next.
            fetches = done.chunks if layerwise else 1
            moved = {
                "storage_read": hits * BLOCK,
                "layer_read": fetches * decode_hits * BLOCK,
                "layer_write": (hits - decode_hits + new + tail) * BLOCK,
                "storage_write": (new + generated) * BLOCK,
            }
            assert of_kind(done) == {kind: nbytes for kind, nbytes in moved.items() if nbytes}
            assert done.persisted_bytes == (new + generated) * BLOCK
            assert done.verified_blocks == hits + new + fetches * decode_hits
            assert done.mismatched_blocks == 0
            new_id = first_new(1)
            ids = [*range(FIRST_HIT, FIRST_HIT + hits), *range(new_id, new_id + new), *[TAIL] * tail]
            np.testing.assert_array_equal(pair["d0"]._host.blocks(0, len(ids)), content(ids))
            pair.assert_all_given_back()

    asyncio.run(test())


def test_a_turn_whose_prompt_is_all_hit_computes_one_token() -> None:
    async def test() -> None:
        async with hosts() as pair:
            turn = order(new=0, tail_tokens=0)
            assert turn.new_tokens == 1
            done = the_done(await pair.serve(turn))
            assert of_kind(done) == {"storage_read": 5 * BLOCK, "layer_write": 5 * BLOCK}
            [forward] = (await pair.end("p0")).forwards
            assert [(b.requests, b.new_tokens, b.cached_tokens) for b in forward.batches] == [
                (1, 1, 80),
                (0, 0, 0),
            ]

    asyncio.run(test())


@each_path
def test_what_an_earlier_turn_left_in_a_buffer_does_not_pass_for_a_read(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reads_nothing(*_: object) -> None:
        return None

    async def test() -> None:
        async with hosts() as pair:
            turn = order(decode_hits=DECODE_HITS[path])
            first = the_done(await pair.serve(turn))
            for host in ("p0", "d0"):
                monkeypatch.setattr(pair[host]._host.storage, "read_into", reads_nothing)
            second = the_done(await pair.serve(turn))  # the same blocks at the same place
            assert first.mismatched_blocks == 0
            assert second.mismatched_blocks == HITS + DECODE_HITS[path]

    asyncio.run(test())


@pytest.mark.parametrize(("path", "seen"), [("prefill", 1), ("decode", 2), ("split", 2)])
def test_wrong_bytes_in_storage_are_noticed(path: str, seen: int, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with hosts() as pair:
            for host in ("p0", "d0"):
                await store(pair[host], "prime/a", [99, 100, 555])
            done = the_done(await pair.serve(order(decode_hits=DECODE_HITS[path])))
            assert done.mismatched_blocks == seen  # at the decode host, and on the way back from it
            assert "turn 1: 1 blocks differ from their content: 101" in caplog.text

    asyncio.run(test())


def test_oracle_moves_nothing() -> None:
    async def test() -> None:
        async with hosts(engine=A_BLOCK_A_PASS) as pair:
            first_token, done = await pair.serve(order(moves=False, generated=1))
            assert first_token == FirstToken(1)
            assert isinstance(done, TurnDone)
            assert done.transfers == ()
            assert (done.persisted_bytes, done.verified_blocks, done.hbm_load_ns) == (0, 0, 0)
            assert done.chunks == 4  # 58 tokens are computed all the same
            for host in ("p0", "d0"):
                report = await pair.end(host)
                assert (report.storage_read_bytes, report.storage_written_bytes) == (0, 0)
                assert (pair[host]._host.arena.view == 0xAA).all()

    asyncio.run(test())


def test_missed_blocks_that_another_session_has_are_not_persisted() -> None:
    async def test() -> None:
        async with hosts() as pair:
            gaps = (BlockRange(0, 1), BlockRange(2, 2))
            done = the_done(await pair.serve(order(new=5, persisted=gaps)))
            assert done.persisted_bytes == 3 * BLOCK
            found = await stored(pair["d0"], "r/1/prompt", 3)
            np.testing.assert_array_equal(found, content([1000, 1002, 1003]))
            none = the_done(await pair.serve(order(2, persisted=(), prompt_key="")))
            assert none.persisted_bytes == 0
            pair.assert_all_given_back()

    asyncio.run(test())


def test_generated_blocks_are_persisted_one_by_one_but_for_those_without_a_key() -> None:
    async def test() -> None:
        async with hosts() as pair:
            generated = tuple(
                StoredObject(key, (BlockRange(block, 1),))
                for key, block in (("r/g0", 7), ("", 8), ("r/g2", 9))
            )
            turn = msgspec.structs.replace(order(generated=3), generated=generated)
            done = the_done(await pair.serve(turn))
            writes = [t.bytes for t in done.transfers if t.kind == "storage_write"]
            assert writes == [3 * BLOCK, BLOCK, BLOCK]
            for key, block in (("r/g0", 7), ("r/g2", 9)):
                np.testing.assert_array_equal(await stored(pair["d0"], key, 1), content([block]))

    asyncio.run(test())


@each_path
def test_layers_are_handed_over_while_later_ones_compute_or_else_after_all_of_them(path: str) -> None:
    async def test(layerwise: bool) -> None:
        async with hosts(layerwise=layerwise, engine=passes_of(0.05)) as pair:
            done = the_done(await pair.serve(order(decode_hits=DECODE_HITS[path])))
            [forward] = (await pair.end("p0")).forwards
            [write] = [t for t in done.transfers if t.kind == "layer_write"]
            assert write.operations == GEOMETRY.layers
            assert done.compute_ns == 50_000_000
            assert forward.end_at_ns - forward.begin_at_ns >= 49_000_000
            if layerwise:
                assert forward.begin_at_ns < write.begin_at_ns < forward.end_at_ns
            else:
                assert write.begin_at_ns >= forward.end_at_ns
                [*reads] = [t for t in done.transfers if t.kind == "layer_read"]
                assert all(read.end_at_ns <= forward.begin_at_ns for read in reads)

    asyncio.run(test(layerwise=True))
    asyncio.run(test(layerwise=False))


@each_path
def test_without_layerwise_prefill_prompts_wait_for_hbm(path: str) -> None:
    """Room for one prompt: they run one after the other, although a batch could hold them all."""

    turns = [order(i, decode_hits=DECODE_HITS[path]) for i in (1, 2, 3)]
    room = passes_of(0.02, kv_hbm_bytes=1.5 * turns[0].prompt_tokens * KV_BYTES_PER_TOKEN)

    async def waits_and_batches(layerwise: bool) -> tuple[list[int], list[int]]:
        async with hosts(layerwise=layerwise, of_host={"p0": {"engine": room}}) as pair:
            reported = await pair.serve(*turns)
            waits = sorted(body.hbm_wait_ns for body in reported if isinstance(body, TurnDone))
            forwards = (await pair.end("p0")).forwards
            pair.assert_all_given_back()
            return waits, [forward.batches[0].requests for forward in forwards]

    waits, batches = asyncio.run(waits_and_batches(layerwise=False))
    assert batches == [1, 1, 1]
    assert waits[0] < waits[1] < waits[2] - 15_000_000
    waits, batches = asyncio.run(waits_and_batches(layerwise=True))
    assert waits == [0, 0, 0]
    assert sum(batches) == 3 > len(batches)


def test_prompts_of_several_engines_are_batched_in_step() -> None:
    async def test() -> None:
        async with hosts(engine=passes_of(0.02)) as pair:
            turns = [
                order(i, decode_hits=i % 6, new=i % 3, prefill_engine=i % 2, decode_engine=i % 2)
                for i in range(1, 9)
            ]
            reported = await pair.serve(*turns)
            done = {body.turn_id: body for body in reported if isinstance(body, TurnDone)}
            assert sorted(done) == list(range(1, 9))
            assert all(body.mismatched_blocks == 0 for body in done.values())
            forwards = (await pair.end("p0")).forwards
            for rank in (0, 1):
                own = [turn for turn in turns if turn.prefill_engine == rank]
                batches = [forward.batches[rank] for forward in forwards]
                assert all(batch.engine == rank for batch in batches)
                assert sum(batch.requests for batch in batches) == len(own)
                assert sum(batch.new_tokens for batch in batches) == sum(turn.new_tokens for turn in own)
                assert sum(batch.cached_tokens for batch in batches) == sum(turn.hit_tokens for turn in own)
            assert len(forwards) < len(turns)
            assert all(a.end_at_ns <= b.begin_at_ns for a, b in pairwise(forwards))
            pair.assert_all_given_back()

    asyncio.run(test())


@pytest.mark.parametrize("at_once", [True, False])
def test_a_split_is_computed_once_the_decode_part_is_read_which_may_be_told_at_once(at_once: bool) -> None:
    async def test() -> None:
        async with hosts() as pair:
            host, prefill = pair["d0"]._host, pair["p0"]
            request = PrefillRequest(order(decode_hits=3), "d0", False, host.rails[0].region.remote, 0)
            prefill._in_band(encode(request))
            if not at_once:
                await asyncio.sleep(0.03)
                assert pair.reported() == [ReadDone(1)]
                assert prefill._prefill.passes == []
            host.blocks(0, 3)[:] = content([100, 101, 102])
            prefill._in_band(encode(DecodePartRead(1)))  # before the request's first step, if at once
            await pair.prefilled()
            expected = content([*range(100, 105), *range(1000, 1003), TAIL])
            np.testing.assert_array_equal(host.blocks(0, 9), expected)
            assert not prefill._prefill._decode_part

    asyncio.run(test())


def test_tokens_come_at_the_decode_step_s_pace() -> None:
    async def test() -> None:
        step_s = 0.004
        async with hosts(engine=engine(decode_overhead_s=step_s)) as pair:
            done = the_done(await pair.serve(order(generated=1)))
            assert done.decode_ns >= 16 * step_s * 1e9  # 17 tokens, the first of which prefill gave
            assert step_s * 1e9 <= done.second_token_ns < done.decode_ns
            prompt, block = [t.begin_at_ns for t in done.transfers if t.kind == "storage_write"]
            # The tail has 10 tokens and prefill gives the 11th: the block is full five steps later.
            assert 5 * step_s * 1e9 - 1_000_000 <= block - prompt < 0.75 * done.decode_ns
            alone = the_done(await pair.serve(order(2, output_tokens=1)))
            assert (alone.second_token_ns, alone.decode_ns, alone.hbm_load_ns) == (0, 0, 0)

    asyncio.run(test())


def test_leaders_ask_for_work_until_the_repetition_ends() -> None:
    async def test() -> None:
        async with hosts(fetch_interval_s=0.01) as pair:
            await asyncio.sleep(0.1)
            for host in ("p0", "d0"):
                await pair.end(host)
                asked = pair.said_by(host)
                assert set(asked) == {Fetch()}
                assert len(asked) >= 3  # one at once, the others on a machine that may be busy
                await asyncio.sleep(0.03)
                assert pair.said_by(host) == []

    asyncio.run(test())
