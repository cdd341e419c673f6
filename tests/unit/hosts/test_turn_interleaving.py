"""Many turns on several hosts with buffers and HBM barely large enough: all finish, all is given back."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process_hosts import A_BLOCK_A_PASS, FAST, hosts, order

from hosts.config import Geometry, RailConfig, TransportConfig
from hosts.protocol import Failed, TurnDone, TurnOrder
from workloads.models import find_model, kv_bytes_per_token

GEOMETRY = Geometry(layers=5, block_tokens=16, layer_block_bytes=1000)
BLOCK = GEOMETRY.full_block_bytes
RING_LAYERS = 3
KV_BYTES_PER_TOKEN = kv_bytes_per_token(find_model(FAST.model))


@st.composite
def placed_turns(draw: st.DrawFn) -> list[tuple[str, TurnOrder, float]]:
    """Decode host, order and start (seconds) of each turn."""
    turns = []
    for turn_id in range(1, draw(st.integers(2, 12), "turns") + 1):
        hits, new = draw(st.integers(0, 8)), draw(st.integers(0, 4))
        turn = order(
            turn_id,
            hits=hits,
            decode_hits=draw(st.integers(0, hits)),
            new=new,
            tail_tokens=draw(st.sampled_from([0, 7] if hits + new else [7])),
            generated=draw(st.integers(0, 1)),
            moves=draw(st.sampled_from([True, True, True, False])),
            prefill_host=draw(st.sampled_from(["p0", "p1"])),
            prefill_engine=draw(st.integers(0, 1)),
            decode_engine=draw(st.integers(0, 1)),
        )
        decode_host, start_s = (
            draw(st.sampled_from(["d0", "d1"])),
            draw(st.sampled_from([0, 0, 0.002, 0.005])),
        )
        turns.append((decode_host, turn, start_s))
    return turns


def decode_bytes(turn: TurnOrder) -> int:
    """What a turn needs of the DE buffer."""
    full_blocks = sum(blocks.count for blocks in (*turn.hit_blocks, *turn.new_blocks))
    return (full_blocks + (1 if turn.tail_tokens else 0)) * BLOCK


def prefill_bytes(turn: TurnOrder, layerwise: bool) -> int:
    """What a turn needs of the PE buffer: the decode host's part passes through it layer by layer."""
    passing = sum(span.blocks for span in turn.decode_reads) * BLOCK
    ring_bytes = passing // GEOMETRY.layers * (RING_LAYERS if layerwise else GEOMETRY.layers)
    return decode_bytes(turn) - passing + ring_bytes


@settings(max_examples=60)
@given(
    turns=placed_turns(),
    layerwise=st.booleans(),
    spare_blocks=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    spare_hbm=st.floats(1.0, 2.0),
    chunked=st.booleans(),
    pass_s=st.sampled_from([0.0, 0.001]),
    pace_bytes_per_s=st.sampled_from([0.0, 2e8]),
)
def test_all_turns_finish_in_the_smallest_buffers_and_leave_them_whole(
    turns: list[tuple[str, TurnOrder, float]],
    layerwise: bool,
    spare_blocks: tuple[int, int],
    spare_hbm: float,
    chunked: bool,
    pass_s: float,
    pace_bytes_per_s: float,
) -> None:
    orders = [turn for _, turn, _ in turns]
    prefill = {
        "buffer_bytes": max(prefill_bytes(turn, layerwise) for turn in orders) + spare_blocks[0] * BLOCK,
        "engine": msgspec.structs.replace(
            A_BLOCK_A_PASS if chunked else FAST,
            weight_bytes=pass_s,
            hbm_bytes_per_s=1.0,
            kv_hbm_bytes=max(turn.prompt_tokens for turn in orders) * KV_BYTES_PER_TOKEN * spare_hbm,
        ),
    }
    decode = {"buffer_bytes": max(map(decode_bytes, orders)) + spare_blocks[1] * BLOCK}

    async def run() -> None:
        async with hosts(
            ("p0", "p1", "d0", "d1"),
            layerwise=layerwise,
            of_host={"d0": decode, "d1": decode, "p0": prefill, "p1": prefill},
            geometry=GEOMETRY,
            rails=(RailConfig(TransportConfig("memory", pace_bytes_per_s=pace_bytes_per_s)),),
        ) as all_hosts:

            async def serve(decode_host: str, turn: TurnOrder, start_s: float) -> None:
                await asyncio.sleep(start_s)
                await all_hosts[decode_host]._serve_turn(turn)

            await asyncio.gather(*(serve(*turn) for turn in turns))
            await all_hosts.prefilled()
            reported = all_hosts.reported()
            assert [body for body in reported if isinstance(body, Failed)] == []
            done = {body.turn_id: body for body in reported if isinstance(body, TurnDone)}
            assert done.keys() == {turn.turn_id for turn in orders}
            for turn in orders:
                blocks = sum(r.count for r in (*turn.hit_blocks, *turn.new_blocks)) if turn.moves else 0
                assert done[turn.turn_id].verified_blocks >= blocks
                assert done[turn.turn_id].mismatched_blocks == 0
            all_hosts.assert_all_given_back()

    asyncio.run(run())
