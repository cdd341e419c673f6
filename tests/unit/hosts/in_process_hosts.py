"""Agents of one process that know each other, and orders for them: memory transport and storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hosts.agent import Agent
from hosts.compute import prediction_of
from hosts.config import ComputeConfig, EngineConfig, Geometry, RailConfig, StorageConfig, TransportConfig
from hosts.content import fill_blocks
from hosts.protocol import (
    BeginRepetition,
    EndRepetition,
    Envelope,
    Failed,
    Fetch,
    HostConfig,
    Message,
    Peers,
    Ready,
    RepetitionReport,
    StoredObject,
    TurnDone,
    TurnOrder,
)
from workloads.layout import BlockRange, Span, to_ranges

GEOMETRY = Geometry(layers=5, block_tokens=16, layer_block_bytes=24)
BLOCK = GEOMETRY.full_block_bytes
SEED = 7
TAIL = -1
FIRST_HIT = 100
_BLOCKS_IN_A = 2

FAST = EngineConfig(
    model="dualpath-27b",
    gpu_flops=1e30,
    hbm_bytes_per_s=1e30,
    copy_bytes_per_s=1e30,
    weight_bytes=0,
    kv_hbm_bytes=1e30,
    decode_overhead_s=0,
    compute_quota_s=1e9,
    time_dilation=1.0,
)
"""Engines that take no time and hold everything."""


def engine(**change: Any) -> EngineConfig:
    return msgspec.structs.replace(FAST, **change)


def passes_of(seconds: float, **change: Any) -> EngineConfig:
    """Engines whose forward passes take ``seconds`` each."""
    return engine(weight_bytes=seconds, hbm_bytes_per_s=1.0, **change)


A_BLOCK_A_PASS = engine(compute_quota_s=prediction_of(FAST).attention_s(0, GEOMETRY.block_tokens))
"""Engines whose quota lets one block of a prompt pass at once, never more."""


def config(host: str, **change: Any) -> HostConfig:
    return msgspec.structs.replace(
        HostConfig(
            host=host,
            role="prefill" if host.startswith("p") else "decode",
            engines=2,
            geometry=GEOMETRY,
            buffer_bytes=1 << 18,
            buffer_pages="base",
            storage=StorageConfig("memory", read_chunk_bytes=100),
            rails=(RailConfig(TransportConfig("memory")),),
            nics=(),
            engine=FAST,
            compute=ComputeConfig(),
            fetch_interval_s=60.0,
            content_seed=SEED,
            verify_every=1,
            telemetry_interval_s=60.0,
            turn_timeout_s=5.0,
        ),
        **change,
    )


class Hosts:
    """Configured agents without a control node: what they report is kept."""

    def __init__(self, agents: Mapping[str, Agent], said: Mapping[str, list[Envelope]]) -> None:
        self._agents = agents
        self._said = said
        self._decode_hbm_tokens = {name: list(a._decode._hbm_free_tokens) for name, a in agents.items()}

    def __getitem__(self, host: str) -> Agent:
        return self._agents[host]

    async def serve(self, *orders: TurnOrder, decode_host: str = "d0") -> list[Message]:
        """Turns that run together; what was reported by the hosts in their order, so the decode hosts'
        part is the last."""
        await asyncio.gather(*(self[decode_host]._serve_turn(order) for order in orders))
        await self.prefilled()
        return self.reported()

    async def prefilled(self) -> None:
        """All prefill requests are served."""
        for host, agent in self._agents.items():
            if host.startswith("p"):
                await asyncio.gather(*(agent._tasks - {agent._fetching}))

    def reported(self) -> list[Message]:
        """What the hosts reported since the last call, but for asking for work."""
        return [body for host in self._said for body in self.said_by(host) if not isinstance(body, Fetch)]

    def said_by(self, host: str) -> list[Message]:
        """What the host sent the control node since it was last asked."""
        bodies = [envelope.body for envelope in self._said[host]]
        self._said[host].clear()
        return bodies

    async def end(self, host: str) -> RepetitionReport:
        report = await self[host]._perform(EndRepetition())
        assert isinstance(report, RepetitionReport)
        return report

    def assert_all_given_back(self) -> None:
        """Every buffer is one hole again, and all HBM is free."""
        for name, agent in self._agents.items():
            host = agent._host
            assert host.arena.holes == ((0, host.arena.view.nbytes),)
            assert host.arena.free_bytes == host.arena.capacity_bytes
            capacity_bytes = host.config.engine.kv_hbm_bytes
            assert [budget.free for budget in agent._prefill._hbm] == [capacity_bytes] * host.config.engines
            assert agent._decode._hbm_free_tokens == self._decode_hbm_tokens[name]


@asynccontextmanager
async def hosts(
    names: Iterable[str] = ("p0", "d0"),
    *,
    layerwise: bool = True,
    of_host: Mapping[str, Mapping[str, Any]] | None = None,
    **change: Any,
) -> AsyncIterator[Hosts]:
    """Hosts in a repetition, configured with ``change`` and ``of_host[host]``; the hit blocks are stored.

    Buffers hold 0xAA, which is no block's content.
    """
    said: dict[str, list[Envelope]] = {name: [] for name in names}
    agents = {name: Agent(name, said[name].append) for name in names}
    async with AsyncExitStack() as stack:
        peers: dict[str, tuple[str, ...]] = {}
        for name, agent in agents.items():
            await stack.enter_async_context(agent._resources)
            stack.push_async_callback(_end_tasks, agent)
            ready = await agent._configure(config(name, **{**change, **(of_host or {}).get(name, {})}))
            assert isinstance(ready, Ready)
            peers[name] = ready.addresses
            agent._host.arena.view[:] = 0xAA
            await store_hit(agent)
        for agent in agents.values():
            await agent._perform(Peers(peers))
            await agent._perform(BeginRepetition(layerwise))
        yield Hosts(agents, said)


async def _end_tasks(agent: Agent) -> None:
    """As the agent does when it ends, before it frees its resources."""
    tasks = list(agent._tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def store_hit(agent: Agent) -> None:
    """Two objects with the hit blocks; the first begins with a block that is not part of it."""
    await store(agent, "prime/a", [99, *range(FIRST_HIT, FIRST_HIT + _BLOCKS_IN_A)])
    await store(agent, "prime/b", list(range(FIRST_HIT + _BLOCKS_IN_A, FIRST_HIT + 10)))


async def store(agent: Agent, key: str, ids: list[int]) -> None:
    await agent._store(StoredObject(key, to_ranges(np.array(ids, np.int64))))


async def stored(agent: Agent, key: str, blocks: int) -> NDArray[np.uint8]:
    """The object's first ``blocks`` blocks: [blocks, full_block_bytes]."""
    found = np.empty((blocks, BLOCK), np.uint8)
    await agent._host.storage.read_into(key, 0, memoryview(found.reshape(-1).data))
    return found


def content(ids: Iterable[int]) -> NDArray[np.uint8]:
    listed = np.array(list(ids), np.int64)
    out = np.empty((len(listed), BLOCK), np.uint8)
    fill_blocks(out, SEED, listed)
    return out


def first_new(turn_id: int) -> int:
    """Id of the first missed block of a turn."""
    return 1000 * turn_id


def order(
    turn_id: int = 1,
    *,
    hits: int = 5,
    decode_hits: int = 0,
    new: int = 3,
    tail_tokens: int = 10,
    generated: int = 0,
    moves: bool = True,
    **change: Any,
) -> TurnOrder:
    """Of the hit blocks the decode host reads ``decode_hits``; the prefill host p0 reads the others."""
    new_id = first_new(turn_id)
    prompt_tokens = (hits + new) * GEOMETRY.block_tokens + tail_tokens
    return msgspec.structs.replace(
        TurnOrder(
            turn_id=turn_id,
            moves=moves,
            prefill_host="p0",
            prefill_engine=0,
            decode_engine=0,
            hit_blocks=(BlockRange(FIRST_HIT, hits),) if hits else (),
            decode_reads=_spans(0, decode_hits) if moves else (),
            prefill_reads=_spans(decode_hits, hits) if moves else (),
            new_blocks=(BlockRange(new_id, new),) if new else (),
            prompt_key=f"r/{turn_id}/prompt" if new else "",
            persisted=(BlockRange(0, new),) if new else (),
            generated=tuple(
                StoredObject(f"r/{turn_id}/generated-{i}", (BlockRange(new_id + new + i, 1),))
                for i in range(generated)
            ),
            hit_tokens=hits * GEOMETRY.block_tokens,
            new_tokens=max(1, prompt_tokens - hits * GEOMETRY.block_tokens),
            tail_tokens=tail_tokens,
            output_tokens=generated * GEOMETRY.block_tokens + 1,
        ),
        **change,
    )


def _spans(begin: int, end: int) -> tuple[Span, ...]:
    """Where the hit blocks from ``begin`` to ``end`` are stored."""
    in_b = max(begin, _BLOCKS_IN_A)
    spans = (
        Span("prime/a", 1 + begin, min(end, _BLOCKS_IN_A) - begin),
        Span("prime/b", in_b - _BLOCKS_IN_A, end - in_b),
    )
    return tuple(span for span in spans if span.blocks > 0)


def of_kind(done: TurnDone) -> dict[str, int]:
    """Bytes moved, by kind of transfer."""
    moved: dict[str, int] = {}
    for transfer in done.transfers:
        moved[transfer.kind] = moved.get(transfer.kind, 0) + transfer.bytes
    return moved


def the_done(reported: Iterable[Message]) -> TurnDone:
    """The one finished turn among what was reported, of which nothing failed."""
    reported = list(reported)
    assert not [body for body in reported if isinstance(body, Failed)]
    [done] = [body for body in reported if isinstance(body, TurnDone)]
    return done
