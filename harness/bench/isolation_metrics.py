"""What an isolation benchmark's observations say; pure.

Goodput is payload of all hosts together over the time that counts, all rounds. A burst's time over the time
its bytes take at the link rate is its stretch, so that bursts of all sizes can be pooled ("all").

``isolation_leakage`` and ``jain_fairness`` are tebench's (kvcache-ai/Mooncake, its QoS metrics): of a class,
max(0, 1 - goodput here / goodput alone); over the classes' goodput x_i, (sum x_i)^2 / (n sum x_i^2), all
weights 1. What lacks a baseline, a second class or the samples is None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from harness.bench.traffic import Observation
from hosts.bench.phases import BurstCycle, Load
from hosts.config import TrafficClass

Scenario = Literal["collectives", "kv", "same_class", "low_class"]
SCENARIOS: dict[Scenario, dict[Load, TrafficClass]] = {
    "collectives": {"collectives": "high"},
    "kv": {"kv": "low"},
    "same_class": {"collectives": "high", "kv": "high"},
    "low_class": {"collectives": "high", "kv": "low"},
}
P99_SAMPLES = 100
"""A 99th percentile of fewer is their maximum."""


class BurstTimes(msgspec.Struct, frozen=True):
    """Bursts of one collective, in emulated seconds (of all: in stretch), and over those of the collectives
    alone."""

    collective: str
    bursts: int
    p50: float | None
    p99: float | None
    slow_down_p50: float | None
    slow_down_p99: float | None


class ScenarioResult(msgspec.Struct, frozen=True):
    """One scenario, all rounds. Goodput in bytes a second; ``kv_of_remaining`` is KV's goodput over that of
    KV alone less what the collectives got here; ``utilization`` is the goodput of both over KV alone."""

    scenario: Scenario
    bursts: list[BurstTimes]
    collectives_bytes_per_s: float | None
    kv_bytes_per_s: float | None
    kv_of_remaining: float | None
    utilization: float | None
    isolation_leakage: dict[Load, float | None]
    jain_fairness: float | None
    cpu_busy: float


def jain_fairness(values: Sequence[float]) -> float | None:
    """1 for equal values, 1 / n where one has all; None where there is nothing to share."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


def isolation_leakage(mixed: float | None, isolated: float | None) -> float | None:
    """Share of what a class gets alone that it loses beside others."""
    return max(0.0, 1 - mixed / isolated) if mixed is not None and isolated else None


def share_of_remaining(kv: float | None, ceiling: float | None, collectives: float | None) -> float | None:
    """KV's goodput over what the collectives leave of the ceiling."""
    if kv is None or ceiling is None or collectives is None or ceiling <= collectives:
        return None
    return kv / (ceiling - collectives)


def results(
    rounds: Mapping[Scenario, Sequence[Observation]], cycle: BurstCycle, wire_s: Sequence[float]
) -> list[ScenarioResult]:
    """Each scenario against the ones alone; ``wire_s`` is the time of each burst's bytes at the link rate."""
    alone = _stretches(rounds.get("collectives", ()), cycle, wire_s)
    rates = {scenario: _goodput(observed) for scenario, observed in rounds.items()}
    collectives_alone = rates.get("collectives", {}).get("collectives")
    ceiling = rates.get("kv", {}).get("kv")
    found = []
    for scenario, observed in rounds.items():
        rate = rates[scenario]
        collectives, kv = rate.get("collectives"), rate.get("kv")
        both = [collectives, kv] if collectives is not None and kv is not None else []
        total = sum(value for value in (collectives, kv) if value is not None)
        found.append(
            ScenarioResult(
                scenario=scenario,
                bursts=_burst_times(_stretches(observed, cycle, wire_s), alone, cycle, wire_s),
                collectives_bytes_per_s=collectives,
                kv_bytes_per_s=kv,
                kv_of_remaining=share_of_remaining(kv, ceiling, collectives),
                utilization=total / ceiling if ceiling else None,
                isolation_leakage={
                    "collectives": isolation_leakage(collectives, collectives_alone),
                    "kv": isolation_leakage(kv, ceiling),
                },
                jain_fairness=jain_fairness(both) if both else None,
                cpu_busy=sum(o.cpu_busy for o in observed) / len(observed),
            )
        )
    return found


def _goodput(observed: Sequence[Observation]) -> dict[Load, float]:
    """Bytes a second of all hosts, of the loads that there were."""
    rates: dict[Load, float] = {}
    if all(o.collectives for o in observed):
        rates["collectives"] = sum(c.bytes / c.seconds for o in observed for c in o.collectives.values())
    if all(o.kv for o in observed):
        moved = [k.transfers for o in observed for k in o.kv.values()]
        rates["kv"] = sum(transfers.bytes / transfers.seconds for transfers in moved)
    return {load: rate / len(observed) for load, rate in rates.items()}


def _stretches(
    observed: Sequence[Observation], cycle: BurstCycle, wire_s: Sequence[float]
) -> dict[str, list[float]]:
    """Each burst's time over its wire time, by collective and, as "all", together."""
    found: dict[str, list[float]] = {name: [] for name in ("all", *(b.collective for b in cycle.bursts))}
    for host in (c for o in observed for c in o.collectives.values()):
        for time in host.bursts:
            stretch = time.seconds / wire_s[time.position]
            found[cycle.bursts[time.position].collective].append(stretch)
            found["all"].append(stretch)
    return found


def _burst_times(
    stretches: Mapping[str, list[float]],
    alone: Mapping[str, list[float]],
    cycle: BurstCycle,
    wire_s: Sequence[float],
) -> list[BurstTimes]:
    units = {"all": 1.0, **{b.collective: s for b, s in zip(cycle.bursts, wire_s, strict=True)}}
    found = []
    for collective, values in stretches.items():
        p50, p99 = percentile(values, 50), percentile(values, 99)
        p50_alone, p99_alone = (percentile(alone.get(collective, []), q) for q in (50, 99))
        unit = units[collective]
        found.append(
            BurstTimes(
                collective=collective,
                bursts=len(values),
                p50=None if p50 is None else p50 * unit,
                p99=None if p99 is None else p99 * unit,
                slow_down_p50=_ratio(p50, p50_alone),
                slow_down_p99=_ratio(p99, p99_alone),
            )
        )
    return found if stretches["all"] else []


def percentile(values: Sequence[float], q: float) -> float | None:
    """None where the sample does not hold it."""
    if not values or (q >= 99 and len(values) < P99_SAMPLES):
        return None
    return float(np.percentile(values, q))


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
