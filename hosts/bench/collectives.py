"""Collectives as the network sees them: bursts in which every host writes to every other at once.

An EP all-to-all, a reduce-scatter and an all-gather between hosts are the same thing on the wire, each host
sending an equal part to each peer; they differ in how much (`harness.bench.bursts`). Of the arithmetic in
between only the time is kept.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from hosts.bench.phases import (
    BurstCycle,
    BurstTime,
    CollectivesObserved,
    Offer,
    Phase,
    PhaseClock,
    until,
)
from hosts.buffers import BufferArena
from hosts.transport import Connection, Region, Strided, Transport

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
    """This host's end of the bursts.

    Bursts are numbered through all phases. Who finds the phase over marks its part of the burst it starts as
    the last; since every host needs every part, all learn it from the same burst and stop after it.
    """

    def __init__(self, transport: Transport, host: str, cycle: BurstCycle) -> None:
        self._transport, self._host, self._bursts = transport, host, cycle.bursts
        self._number = 0
        self._arrived: defaultdict[int, _Arrivals] = defaultdict(_Arrivals)
        self._peers: list[Offer] = []
        transport.on_notification(self._on_arrival)

    def offer(self, hosts: int) -> Region:
        """Room for a part from each host."""
        self._part_bytes = max(burst.bytes_to_peer for burst in self._bursts)
        self._region = self._transport.register(BufferArena(self._part_bytes * hosts, _PAGE_BYTES).view)
        return self._region

    def meet(self, offers: Sequence[Offer]) -> None:
        """Know the peers. What host i sends lies in part i of everyone's region."""
        self._own_part = next(i for i, offer in enumerate(offers) if offer.host == self._host)
        # Everyone begins with another peer, as collective libraries do: no link is everyone's first.
        self._peers = [*offers[self._own_part + 1 :], *offers[: self._own_part]]

    async def run(self, phase: Phase) -> CollectivesObserved:
        """Bursts on the grid of their periods; one that is late starts when the one before is complete."""
        clock = PhaseClock(phase)
        connections = [
            await self._transport.connect(peer.address, phase.traffic_class) for peer in self._peers
        ]
        observed: list[BurstTime] = []
        nbytes = 0
        due_at = clock.begins_at
        for position in itertools.cycle(range(len(self._bursts))):
            burst = self._bursts[position]
            await until(due_at)
            due_at += burst.period_s
            began_at = time.monotonic()
            arrivals = await self._exchange(burst.bytes_to_peer, connections, began_at >= clock.ends_at)
            nbytes += burst.bytes_to_peer * sum(map(clock.counts, arrivals.at))
            if clock.counts(began_at):
                observed.append(BurstTime(position, max(arrivals.at) - began_at))
            if arrivals.last:
                break
        return CollectivesObserved(observed, nbytes, phase.seconds)

    async def _exchange(self, nbytes: int, connections: Sequence[Connection], last: bool) -> _Arrivals:
        """One burst: until all parts are here and this host's are at their peers."""
        number, self._number = self._number, self._number + 1
        arrivals = self._arrived[number]
        arrivals.last |= last
        part = Strided(self._own_part * self._part_bytes, nbytes)
        notify = msgspec.msgpack.encode(_Arrival(number, last))
        async with asyncio.TaskGroup() as sends:
            for peer, connection in zip(self._peers, connections, strict=True):
                sends.create_task(connection.write(self._region, part, peer.region, part, notify))
            while len(arrivals.at) < len(connections):
                arrivals.changed.clear()
                await arrivals.changed.wait()
        return self._arrived.pop(number)

    def _on_arrival(self, payload: bytes) -> None:
        arrival = msgspec.msgpack.decode(payload, type=_Arrival)
        arrivals = self._arrived[arrival.burst]
        arrivals.at.append(time.monotonic())
        arrivals.last |= arrival.last
        arrivals.changed.set()
