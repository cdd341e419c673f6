"""Collectives and KV between three hosts of one process, over the memory transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from hosts.bench.collectives import Collectives
from hosts.bench.kv_load import KvLoad
from hosts.bench.phases import (
    Burst,
    BurstCycle,
    CollectivesObserved,
    KvObserved,
    KvTransfers,
    Phase,
    PhaseClock,
)
from hosts.config import Geometry, TransportConfig
from hosts.transport import TransferError
from hosts.transport.memory import MemoryTransport

HOSTS = ("d0", "p0", "p1")
CYCLE = BurstCycle((Burst("dispatch", 1000, 0.02), Burst("combine", 2000, 0.03)))
KV = KvTransfers(Geometry(layers=3, block_tokens=64, layer_block_bytes=16), blocks=5, depth=2)


def phase(seconds: float = 0.2, begin_in_s: float = 0.0) -> Phase:
    return Phase("low", begin_in_s, 0.05, seconds, 0.05)


async def met(
    transports: Sequence[MemoryTransport], what: BurstCycle | KvTransfers
) -> list[Collectives] | list[KvLoad]:
    """A load on every host, introduced to each other."""
    loads: list[Collectives] | list[KvLoad]
    if isinstance(what, BurstCycle):
        loads = [Collectives(t, host, what) for t, host in zip(transports, HOSTS, strict=True)]
    else:
        loads = [KvLoad(t, host, what) for t, host in zip(transports, HOSTS, strict=True)]
    offers = []
    for load in loads:
        offers.append(await load.offer(len(HOSTS)))
    for load in loads:
        await load.meet(offers)
    return loads


def transports() -> list[MemoryTransport]:
    return [MemoryTransport(TransportConfig("memory")) for _ in HOSTS]


def test_every_host_sees_the_same_bursts_and_all_stop_after_the_same_one() -> None:
    async def run() -> None:
        hosts = await met(transports(), CYCLE)
        for begin_in_s in (0.0, 0.05):  # a second phase begins where the first has ended
            observed = await asyncio.gather(*(host.run(phase(0.3, begin_in_s)) for host in hosts))
            counts = [len(o.bursts) for o in observed]
            # Bursts every 25 ms on average; one on the edge of the window may count on one host only.
            assert max(counts) - min(counts) <= 1
            assert 6 <= max(counts) <= 14
            for o in observed:
                assert {b.position for b in o.bursts} == {0, 1}
                assert all(0 < b.seconds < 0.2 for b in o.bursts)
                assert o.bytes % 1000 == 0
                assert o.bytes > 5000
            assert len({host._number for host in hosts if isinstance(host, Collectives)}) == 1
            assert all(not host._arrived for host in hosts if isinstance(host, Collectives))

    asyncio.run(run())


def test_a_burst_waits_for_the_last_host() -> None:
    async def run() -> None:
        hosts = await met(transports(), CYCLE)
        punctual, late = Phase("low", 0.0, 0.0, 0.2, 0.0), Phase("low", 0.1, 0.0, 0.2, 0.0)
        observed = await asyncio.gather(*(h.run(late if h is hosts[2] else punctual) for h in hosts))
        assert all(o.bursts[0].seconds > 0.09 for o in observed[:2])
        assert observed[2].bursts[0].seconds < 0.09

    asyncio.run(run())


def test_a_peer_that_is_gone_fails_the_burst() -> None:
    async def run() -> None:
        ends = transports()
        hosts = await met(ends, CYCLE)
        await ends[1].close()
        with pytest.raises((TransferError, ExceptionGroup)):
            await hosts[0].run(phase())

    asyncio.run(run())


def test_kv_reads_and_writes_layers_with_every_peer() -> None:
    async def run() -> None:
        hosts = await met(transports(), KV)
        observed = await asyncio.gather(*(host.run(phase()) for host in hosts))
        for o in observed:
            moved = o.transfers
            assert moved.seconds == 0.2
            assert moved.operations > 0
            assert moved.bytes == moved.operations * 5 * 16

    asyncio.run(run())


def test_a_phase_counts_between_warm_up_and_cool_down() -> None:
    clock = PhaseClock(Phase("low", 10.0, 1.0, 4.0, 0.5))
    assert clock.begins_at - time.monotonic() == pytest.approx(10, abs=0.1)
    parts = (clock.counts_from - clock.begins_at, clock.counts_until - clock.counts_from)
    assert parts == pytest.approx((1.0, 4.0))
    assert clock.ends_at - clock.counts_until == pytest.approx(0.5)
    assert clock.counts(clock.counts_from)
    assert not clock.counts(clock.counts_until)


def test_hosts_that_hear_of_a_phase_at_different_times_begin_it_together() -> None:
    async def run() -> None:
        hosts = await met(transports(), CYCLE)

        async def hears(host: Collectives | KvLoad, after_s: float) -> CollectivesObserved | KvObserved:
            await asyncio.sleep(after_s)
            return await host.run(Phase("low", 0.02, 0.0, 0.1, 0.0))

        observed = await asyncio.gather(*(hears(host, 0.1 * i) for i, host in enumerate(hosts)))
        for o in observed:
            assert isinstance(o, CollectivesObserved)
            assert max(burst.seconds for burst in o.bursts) < 0.08

    asyncio.run(run())
