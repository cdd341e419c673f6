"""Collectives as the network sees them: bursts in which every host writes to every other at once.

An EP all-to-all, a reduce-scatter and an all-gather between hosts are the same thing on the wire, each host
sending an equal part to each peer; they differ in how much (`harness.bench.bursts`). Of the arithmetic in
between only the time is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import msgspec

from hosts.bench.burst_grid import Exchanged, run_bursts
from hosts.bench.phases import Burst, BurstCycle, CollectivesObserved, Offer, Phase
from hosts.buffers import BufferArena
from hosts.transport import Connection, Strided, Transport

_PAGE_BYTES = 4096


class _Arrival(msgspec.Struct, frozen=True, array_like=True):
    """The notification with a peer's part of a burst; ``last``: it wants to stop after this one."""

    burst: int
    last: bool


class _Arrivals:
    """A burst as it comes in: when each part did, and whether anyone wants to stop after it."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.last = False
        self.changed = asyncio.Event()


class Collectives:
    """This host's end of the bursts, over our own transport. See `Traffic`. Bursts are numbered through all
    phases."""

    def __init__(self, transport: Transport, host: str, cycle: BurstCycle) -> None:
        self._transport, self._host, self._cycle = transport, host, cycle
        self._number = 0
        self._arrived: defaultdict[int, _Arrivals] = defaultdict(_Arrivals)
        self._peers: list[Offer] = []
        transport.on_notification(self._on_arrival)

    async def offer(self, hosts: int) -> Offer:
        """Room for a part from each host."""
        self._part_bytes = max(burst.bytes_to_peer for burst in self._cycle.bursts)
        self._region = self._transport.register(BufferArena(self._part_bytes * hosts, _PAGE_BYTES).view)
        return Offer(self._host, "collectives", self._transport.address, self._region.remote)

    async def meet(self, offers: Sequence[Offer]) -> None:
        """Know the peers. What host i sends lies in part i of everyone's region."""
        self._own_part = next(i for i, offer in enumerate(offers) if offer.host == self._host)
        # Everyone begins with another peer, as collective libraries do: no link is everyone's first.
        self._peers = [*offers[self._own_part + 1 :], *offers[: self._own_part]]

    async def run(self, phase: Phase) -> CollectivesObserved:
        """See `run_bursts`."""
        connections = [
            await self._transport.connect(peer.address, phase.traffic_class) for peer in self._peers
        ]
        return await run_bursts(phase, self._cycle, partial(self._exchange, connections))

    async def _exchange(self, connections: Sequence[Connection], burst: Burst, last: bool) -> Exchanged:
        """Until all parts are here and this host's are at their peers."""
        began_at = time.monotonic()
        number, self._number = self._number, self._number + 1
        arrivals = self._arrived[number]
        arrivals.last |= last
        part = Strided(self._own_part * self._part_bytes, burst.bytes_to_peer)
        notify = msgspec.msgpack.encode(_Arrival(number, last))
        async with asyncio.TaskGroup() as sends:
            for peer, connection in zip(self._peers, connections, strict=True):
                sends.create_task(connection.write(self._region, part, peer.region, part, notify))
            while len(arrivals.at) < len(connections):
                arrivals.changed.clear()
                await arrivals.changed.wait()
        del self._arrived[number]
        return Exchanged(max(arrivals.at) - began_at, arrivals.at, arrivals.last)

    def _on_arrival(self, payload: bytes) -> None:
        arrival = msgspec.msgpack.decode(payload, type=_Arrival)
        arrivals = self._arrived[arrival.burst]
        arrivals.at.append(time.monotonic())
        arrivals.last |= arrival.last
        arrivals.changed.set()
