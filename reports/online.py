"""How many agents a policy serves within the SLO (paper, section 7): Poisson arrivals at rising rates.

Rates and latencies are real, as the SLO is: what the hardware that the profile describes would show.
"""

from __future__ import annotations

import msgspec

from reports.bottleneck import bottleneck, highest
from reports.latency import Distribution
from reports.metadata import Slo, StoredPoint, StoredSearch
from reports.metrics import policy_metrics
from reports.storage_nics import SnicMetrics
from reports.stored_run import StoredRun
from reports.units import number, seconds

PAPER_RATIO = {"27B": 1.67, "660B": 2.25}
"""Agents/s within the SLO, DualPath over Basic."""

MISSED = ("ttft_slo", "tpot_slo")


class Point(msgspec.Struct, frozen=True):
    """One arrival rate; the latencies are over its turns, None or empty where it did not complete.

    ``bound`` names the resource nearest to bounding it, ``bottleneck`` says more.
    """

    agents_per_s: float
    repetition: int
    outcome: str
    ttft_real_s: Distribution
    ttst_real_s: Distribution
    tpot_real_s: Distribution
    ttft_breakdown_real_s: dict[str, float]
    storage_nic: dict[str, SnicMetrics]
    bound: str
    bottleneck: str | None


class Served(msgspec.Struct, frozen=True):
    """One policy's points by rising rate; ``limited``: a rate above ``max_agents_per_s`` missed the SLO."""

    max_agents_per_s: float | None
    limited: bool
    points: list[Point]

    @property
    def highest_steady(self) -> Point | None:
        """The point of ``max_agents_per_s``."""
        steady = [point for point in self.points if point.outcome == "steady"]
        return next((point for point in steady if point.agents_per_s == self.max_agents_per_s), None)


class Online(msgspec.Struct, frozen=True):
    """All policies, and in ``text`` the contender against the baseline.

    ``ratio`` is that of their highest rates; ``ratio_bound`` says ``at least`` or ``at most`` where one of
    them was tried at no rate that missed the SLO, and where that is so of both there is no ratio.
    """

    slo: Slo
    policies: dict[str, Served]
    ratio: float | None
    ratio_bound: str
    text: str


def online(run: StoredRun) -> Online | None:
    """The online part of a run; None where the run is offline."""
    metadata = run.metadata
    if metadata.online is None or metadata.slo is None:
        return None
    policies = {
        name: _served(run, name, metadata.online[name]) for name in run.policies if name in metadata.online
    }
    baseline, contender = metadata.baseline or "", metadata.contender or ""
    slo = slo_text(metadata.slo)
    ratio, ratio_bound = None, ""
    if baseline != contender and {baseline, contender} <= set(policies):
        base, cont = policies[baseline], policies[contender]
        ratio, ratio_bound = _ratio(base, cont)
        text = _pair_in_words(baseline, base, contender, cont, slo)
    else:
        alone = (_in_words(name, served, slo) for name, served in policies.items())
        text = "; ".join(alone) or "no comparison: no arrival rate was measured"
    return Online(metadata.slo, policies, ratio, ratio_bound, text)


def slo_text(slo: Slo) -> str:
    """``TTFT <= 4 s, TPOT <= 50 ms``."""
    return f"TTFT <= {seconds(slo.ttft_s)}, TPOT <= {seconds(slo.tpot_s)}"


def _served(run: StoredRun, policy: str, search: StoredSearch) -> Served:
    within = search.max_agents_per_s or 0.0
    return Served(
        max_agents_per_s=search.max_agents_per_s,
        limited=any(p.agents_per_s > within and p.outcome in MISSED for p in search.points),
        points=[_point(run, policy, p) for p in sorted(search.points, key=lambda p: p.agents_per_s)],
    )


def _point(run: StoredRun, policy: str, stored: StoredPoint) -> Point:
    metrics = policy_metrics(
        run, policy, [r for r in run.complete(policy) if r.repetition == stored.repetition]
    )
    dilation = run.metadata.scale.time_dilation
    return Point(
        agents_per_s=stored.agents_per_s,
        repetition=stored.repetition,
        outcome=stored.outcome,
        ttft_real_s=metrics.ttft_real_s,
        ttst_real_s=metrics.ttst_real_s,
        tpot_real_s=metrics.tpot_real_s,
        storage_nic=metrics.storage_nic,
        ttft_breakdown_real_s={part: s / dilation for part, s in metrics.ttft_breakdown_s.items()},
        bound=bound.text if (bound := highest(metrics)) else "",
        bottleneck=bottleneck(metrics),
    )


def _ratio(base: Served, cont: Served) -> tuple[float | None, str]:
    if not base.max_agents_per_s or not cont.max_agents_per_s or not (base.limited or cont.limited):
        return None, ""
    ratio = cont.max_agents_per_s / base.max_agents_per_s
    return ratio, "" if base.limited and cont.limited else "at least" if base.limited else "at most"


def _pair_in_words(baseline: str, base: Served, contender: str, cont: Served, slo: str) -> str:
    ratio, bound = _ratio(base, cont)
    if ratio is not None:
        times = f"{bound} {ratio:.2f}x".strip()
        return f"{contender} serves {times} the agents of {baseline} within the SLO ({slo})"
    each = f"{_in_words(contender, cont, slo)}; {_in_words(baseline, base, slo)}"
    if base.max_agents_per_s and cont.max_agents_per_s:
        return f"no comparison, no rate was too high: {each}"
    return each


def _in_words(name: str, served: Served, slo: str) -> str:
    if not served.max_agents_per_s:
        return f"{name} meets the SLO ({slo}) at none of the arrival rates measured"
    more = "" if served.limited else " or more"
    return f"{name} serves {number(served.max_agents_per_s)} agents/s{more} within the SLO ({slo})"
