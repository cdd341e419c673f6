"""Forward passes of prefill engines: what is batched, how long it takes, what is recorded, what fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process_hosts import A_BLOCK_A_PASS, FAST, GEOMETRY, config, engine, order

from hosts.compute import Piece, in_step, prediction_of, timed
from hosts.compute.timed import TimedCompute
from hosts.config import EngineConfig, RailConfig, TransportConfig
from hosts.host import Host, open_host
from hosts.prefill_group import PrefillGroup
from hosts.prompt_kv import PromptKv
from hosts.protocol import EngineBatch, ForwardPass, PrefillRequest
from hosts.transport import Connection, RemoteRegion, TransferError
from workloads.models import find_model, kv_bytes_per_token

DENSE = "qwen2.5-32b"
NOWHERE = RemoteRegion(12345, 1 << 20)
KV_BYTES_PER_TOKEN = kv_bytes_per_token(find_model("dualpath-27b"))


class Engines:
    """A host's engines in their groups, and prompts for them whose KV need not move."""

    def __init__(self, host: Host) -> None:
        self.host, self.prediction = host, prediction_of(host.config.engine)
        self.passes: list[ForwardPass] = []
        compute = TimedCompute(self.prediction, host.config.engines, host.config.geometry.layers)
        self.groups = [
            PrefillGroup(host, engines, compute, self.passes)
            for engines in in_step(host.config.engines, self.prediction.model)
        ]

    async def prompt(self, cached_blocks: int, new_tokens: int) -> PromptKv:
        turn = order(hits=cached_blocks, new=0, tail_tokens=0, moves=False)
        request = PrefillRequest(msgspec.structs.replace(turn, new_tokens=new_tokens), "d0", True, None, 0)
        return PromptKv(self.host, request, await self._itself())

    async def moving_prompt(self, target: RemoteRegion, decode_hits: int = 5) -> PromptKv:
        """One whose hit of 5 blocks is fetched from ``target`` or, but for ``decode_hits``, is here."""
        request = PrefillRequest(order(decode_hits=decode_hits), "d0", True, target, 0)
        kv = PromptKv(self.host, request, await self._itself())
        await kv.allocate()
        return kv

    async def _itself(self) -> Connection:
        transport = self.host.rails[0].transport
        return await transport.connect(transport.address)

    async def run(self, rank: int, kv: PromptKv) -> tuple[int, int]:
        [group] = [group for group in self.groups if rank in group.engines]
        return await group.run(rank, kv)

    def pass_ns(self, *batches: list[Piece]) -> int:
        return self.prediction.dilated_ns(self.prediction.forward_s(batches))


@asynccontextmanager
async def engines_of(engine: EngineConfig, **change: Any) -> AsyncIterator[Engines]:
    async with open_host(config("p0", engine=engine, **change)) as host:
        running = Engines(host)
        try:
            yield running
        finally:
            for group in running.groups:
                await group.close()


def test_a_pass_takes_the_slowest_engine_s_attention_and_a_share_of_the_experts() -> None:
    slow = engine(gpu_flops=find_model(FAST.model).attention_flops(1600, 1000) / 0.02)

    async def run() -> None:
        async with engines_of(slow) as engines:
            prompts = [
                await engines.prompt(100, 1000),
                await engines.prompt(1, 10),
                await engines.prompt(0, 5),
            ]
            (_, first), (_, second), (_, third) = await asyncio.gather(
                *(engines.run(rank, kv) for rank, kv in zip((0, 1, 1), prompts, strict=True))
            )
            expected_ns = engines.pass_ns([Piece(1600, 1000)], [Piece(16, 10), Piece(0, 5)])
            assert first == second == third == expected_ns
            alone_ns = engines.pass_ns([Piece(1600, 1000)])
            assert expected_ns < alone_ns < 2 * expected_ns  # the experts' work was shared, attention not
            [forward] = engines.passes
            assert forward.end_at_ns - forward.begin_at_ns >= expected_ns - 1_000_000
            attention_s, dilated_ns = engines.prediction.attention_s, engines.prediction.dilated_ns
            assert forward.batches == (
                EngineBatch(0, dilated_ns(attention_s(1600, 1000)), 1, 1000, 1600),
                EngineBatch(1, dilated_ns(attention_s(16, 10) + attention_s(0, 5)), 2, 15, 16),
            )

    asyncio.run(run())


@pytest.mark.parametrize("copy_s", [0.0, 0.02, 0.08])
def test_the_copy_of_a_layer_to_hbm_hides_behind_the_layer_before(
    copy_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_bytes = 80 * KV_BYTES_PER_TOKEN
    pass_s = 0.04
    timings = engine(
        weight_bytes=pass_s, hbm_bytes_per_s=1.0, copy_bytes_per_s=copied_bytes / copy_s if copy_s else 1e30
    )
    ends_at_ns: list[int] = []

    async def sleep_until(at_ns: int) -> None:
        ends_at_ns.append(at_ns)

    async def run() -> None:
        async with engines_of(timings) as engines:
            decode_buffer = engines.host.rails[0].transport.register(np.zeros(1 << 16, np.uint8))
            kv = await engines.moving_prompt(decode_buffer.remote, decode_hits=0)
            monkeypatch.setattr(timed, "sleep_until", sleep_until)
            await engines.run(0, kv)
            await kv.close()

    asyncio.run(run())
    each_ns = max(pass_s, copy_s) / GEOMETRY.layers * 1e9
    assert np.diff(ends_at_ns) == pytest.approx([each_ns] * (GEOMETRY.layers - 1))


def test_engines_of_a_dense_model_do_not_wait_for_each_other() -> None:
    slow = engine(model=DENSE, gpu_flops=find_model(DENSE).attention_flops(0, 10_000) / 0.1)

    async def run() -> None:
        async with engines_of(slow) as engines:
            long = asyncio.create_task(engines.run(0, await engines.prompt(0, 10_000)))
            await asyncio.sleep(0.01)
            wait_ns, compute_ns = await engines.run(1, await engines.prompt(0, 5))
            assert not long.done()
            assert wait_ns < 50_000_000
            assert compute_ns == engines.pass_ns([Piece(0, 5)])
            assert (await long)[1] == engines.pass_ns([Piece(0, 10_000)])
            assert [[b.engine for b in forward.batches] for forward in engines.passes] == [[1], [0]]

    asyncio.run(run())


def test_what_comes_during_a_pass_waits_for_the_next_one() -> None:
    async def run() -> None:
        async with engines_of(engine(weight_bytes=0.03, hbm_bytes_per_s=1.0)) as engines:
            first = asyncio.create_task(engines.run(0, await engines.prompt(1, 7)))
            await asyncio.sleep(0.01)
            later = [await engines.prompt(2, tokens) for tokens in (8, 9)]
            waits = await asyncio.gather(engines.run(0, later[0]), engines.run(1, later[1]))
            assert first.done()
            assert all(wait_ns >= 10_000_000 for wait_ns, _ in waits)
            assert [[b.new_tokens for b in forward.batches] for forward in engines.passes] == [[7, 0], [8, 9]]
            before, after = engines.passes
            assert before.end_at_ns <= after.begin_at_ns

    asyncio.run(run())


def test_a_prompt_beyond_the_quota_takes_several_passes_and_the_next_one_fills_the_last() -> None:
    quota = engine(compute_quota_s=prediction_of(FAST).attention_s(100, 32))

    async def run() -> None:
        async with engines_of(quota) as engines:
            long, short = await engines.prompt(0, 70), await engines.prompt(0, 9)
            await asyncio.gather(engines.run(0, long), engines.run(0, short))
            assert (long.chunks, short.chunks) == (3, 1)
            found = [
                (b.requests, b.new_tokens, b.cached_tokens) for b, _ in (f.batches for f in engines.passes)
            ]
            assert found == [(1, 32, 0), (1, 32, 32), (2, 6 + 9, 64)]

    asyncio.run(run())


@pytest.mark.parametrize(("layerwise", "requests"), [(True, [2, 1]), (False, [3])])
def test_with_layerwise_prefill_two_layers_of_a_batch_fit_hbm(layerwise: bool, requests: list[int]) -> None:
    """Without it, room for the whole prompts is taken before they are queued here."""
    room = engine(kv_hbm_bytes=2.5 * 100 * KV_BYTES_PER_TOKEN * 2 / find_model(FAST.model).layers)

    async def run() -> None:
        async with engines_of(room) as engines:
            engines.host.layerwise = layerwise
            prompts = [await engines.prompt(5, 20) for _ in range(3)]  # 100 tokens each
            await asyncio.gather(*(engines.run(0, kv) for kv in prompts))
            assert [forward.batches[0].requests for forward in engines.passes] == requests

    asyncio.run(run())


prompts = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(1, 60)), min_size=1, max_size=8
)


@given(prompts, st.integers(16, 200))
def test_every_token_is_computed_once_and_every_engine_is_in_every_pass(
    asked: list[tuple[int, int, int]], quota_tokens: int
) -> None:
    quota = engine(compute_quota_s=prediction_of(FAST).attention_s(0, quota_tokens))

    async def run() -> None:
        async with engines_of(quota, engines=3) as engines:
            queued = [(rank, await engines.prompt(blocks, new)) for rank, blocks, new in asked]
            await asyncio.gather(*(engines.run(rank, kv) for rank, kv in queued))
            assert all(kv.remaining_tokens == 0 for _, kv in queued)
            for rank in range(3):
                batches = [forward.batches[rank] for forward in engines.passes]
                assert [batch.engine for batch in batches] == [rank] * len(engines.passes)
                assert sum(b.new_tokens for b in batches) == sum(new for r, _, new in asked if r == rank)
                assert sum(b.requests for b in batches) == sum(kv.chunks for r, kv in queued if r == rank)

    asyncio.run(run())


def test_a_pass_that_fails_fails_all_that_are_queued_and_no_later_prompt() -> None:
    async def run() -> None:
        async with engines_of(A_BLOCK_A_PASS) as engines:
            lost = await engines.moving_prompt(NOWHERE)
            queued = [(0, lost), (0, await engines.prompt(1, 40)), (1, await engines.prompt(1, 40))]
            outcomes = await asyncio.gather(
                *(engines.run(rank, kv) for rank, kv in queued), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [TransferError] * 3
            assert engines.passes == []
            await lost.close()
            assert engines.host.arena.free_bytes == engines.host.arena.capacity_bytes
            for rank in (0, 1):
                await engines.run(rank, await engines.prompt(1, 5))
            assert len(engines.passes) == 2

    asyncio.run(run())


def test_a_prompt_given_up_while_it_is_queued_is_in_no_pass() -> None:
    async def run() -> None:
        async with engines_of(engine(weight_bytes=0.02, hbm_bytes_per_s=1.0)) as engines:
            first = asyncio.create_task(engines.run(0, await engines.prompt(0, 7)))
            await asyncio.sleep(0.005)
            goes = asyncio.create_task(engines.run(0, await engines.prompt(0, 8)))
            stays = asyncio.create_task(engines.run(0, await engines.prompt(0, 9)))
            await asyncio.sleep(0)
            goes.cancel()
            await asyncio.gather(first, stays)
            assert goes.cancelled()
            assert [forward.batches[0].new_tokens for forward in engines.passes] == [7, 9]

    asyncio.run(run())


def test_a_prompt_given_up_in_a_pass_leaves_memory_alone_and_the_others_in_it() -> None:
    async def run() -> None:
        paced = TransportConfig("memory", pace_bytes_per_s=1e4)
        async with engines_of(
            engine(weight_bytes=0.1, hbm_bytes_per_s=1.0), rails=(RailConfig(paced),)
        ) as engines:
            host = engines.host
            decode_buffer = host.rails[0].transport.register(np.zeros(1 << 16, np.uint8))
            kv = await engines.moving_prompt(decode_buffer.remote)

            async def serve() -> None:
                try:
                    await engines.run(0, kv)
                finally:
                    await kv.close()

            goes = asyncio.create_task(serve())
            stays = asyncio.create_task(engines.run(1, await engines.prompt(1, 9)))
            await asyncio.sleep(0.03)
            goes.cancel()
            await asyncio.wait([goes])
            for view in (host.arena.view, decode_buffer.view):
                view[:] = 0x55
            await asyncio.wait_for(stays, 2)
            await engines.run(0, await engines.prompt(1, 9))
            for view in (host.arena.view, decode_buffer.view):
                assert (view == 0x55).all()

    asyncio.run(run())
