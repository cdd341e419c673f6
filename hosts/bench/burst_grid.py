"""Bursts of model communication in time, whatever moves them.

Before a phase, hosts exchange as little as there is: that is complete for all of them at about the same
time, from which they count, as engines that wait for each other do. Bursts lie on the grid of their periods;
one that is late starts when the one before is complete. Who finds the phase over marks the burst it starts as
the last. Every host needs every other's part of every burst, so all learn it from the same one, and stop
after it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

from hosts.bench.phases import Burst, BurstCycle, BurstTime, CollectivesObserved, Phase, PhaseClock, until


class Exchanged(NamedTuple):
    """A burst that is complete on this host: seconds that it took, when each peer's part was here (monotonic
    seconds), and whether anyone has marked it as the last."""

    seconds: float
    arrived_at: Sequence[float]
    last: bool


Exchange = Callable[[Burst, bool], Awaitable[Exchanged]]
"""Performs a burst, marked as the last or not. Errors are its own."""


async def run_bursts(phase: Phase, cycle: BurstCycle, exchange: Exchange) -> CollectivesObserved:
    """A cycle's bursts, again and again, until the phase is over for one of the hosts."""
    await exchange(msgspec.structs.replace(cycle.bursts[0], bytes_to_peer=1), False)
    clock = PhaseClock(phase)
    observed: list[BurstTime] = []
    nbytes = 0
    due_at = clock.begins_at
    for position in itertools.cycle(range(len(cycle.bursts))):
        burst = cycle.bursts[position]
        await until(due_at)
        due_at += burst.period_s
        began_at = time.monotonic()
        exchanged = await exchange(burst, began_at >= clock.ends_at)
        nbytes += burst.bytes_to_peer * sum(map(clock.counts, exchanged.arrived_at))
        if clock.counts(began_at):
            observed.append(BurstTime(position, exchanged.seconds))
        if exchanged.last:
            break
    return CollectivesObserved(observed, nbytes, phase.seconds)
