"""Turns whose KV goes through a device's memory and whose kernels run, here the CPU's: bytes arrive whole."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest
from in_process_hosts import GEOMETRY, TAIL, content, engine, first_new, hosts, order, stored, the_done

pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")

from hosts.compute import prediction_of
from hosts.config import ComputeConfig
from hosts.protocol import TurnDone

MODELS = ("toy-latent", "toy-grouped")
ON_THE_CPU = ComputeConfig(kind="torch", device="cpu", expert_engines=4)
BY_NIC = msgspec.structs.replace(ON_THE_CPU, copy="nic")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize("decode_hits", [0, 5, 3])
@pytest.mark.parametrize("compute", [ON_THE_CPU, BY_NIC], ids=["device", "nic"])
def test_every_block_is_whole_on_the_decode_host_and_in_the_store(
    model: str, layerwise: bool, decode_hits: int, compute: ComputeConfig
) -> None:
    async def test() -> None:
        async with hosts(layerwise=layerwise, engine=engine(model=model), compute=compute) as pair:
            turn = order(decode_hits=decode_hits, generated=1)
            done = the_done(await pair.serve(turn))
            assert done.verified_blocks == 8 + decode_hits
            assert done.mismatched_blocks == 0
            assert done.compute_ns > 0
            assert done.hbm_load_ns > 0
            expected = content([*range(100, 105), *range(first_new(1), first_new(1) + 3), TAIL])
            np.testing.assert_array_equal(pair["d0"]._host.blocks(0, 9), expected)
            np.testing.assert_array_equal(await stored(pair["d0"], "r/1/prompt", 3), expected[5:8])
            pair.assert_all_given_back()

    asyncio.run(test())


def test_a_prompt_in_chunks_beside_another_one() -> None:
    toy = engine(model="toy-latent")
    quota_s = prediction_of(toy).attention_s(0, GEOMETRY.block_tokens)
    chunked = msgspec.structs.replace(toy, compute_quota_s=quota_s)

    async def test() -> None:
        async with hosts(engine=chunked, compute=ON_THE_CPU) as pair:
            turns = [
                order(turn_id, decode_hits=2 * turn_id, prefill_engine=turn_id % 2) for turn_id in (1, 2)
            ]
            reported = await pair.serve(*turns)
            done = [body for body in reported if isinstance(body, TurnDone)]
            assert len(done) == 2
            assert all(turn.chunks > 1 and not turn.mismatched_blocks for turn in done)
            pair.assert_all_given_back()

    asyncio.run(test())


def test_a_turn_that_moves_nothing() -> None:
    async def test() -> None:
        async with hosts(engine=engine(model="toy-grouped"), compute=ON_THE_CPU) as pair:
            done = the_done(await pair.serve(order(moves=False, generated=1)))
            assert done.compute_ns > 0
            assert done.transfers == ()

    asyncio.run(test())
