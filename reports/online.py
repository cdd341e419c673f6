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
    """One policy's points by rising rate.

    ``not_served_per_s`` is the lowest rate above ``max_agents_per_s`` that was not steady within the SLO:
    it missed it, or never became steady. None: no such rate was tried.
    """

    max_agents_per_s: float | None
    not_served_per_s: float | None
    points: list[Point]

    @property
    def limited(self) -> bool:
        """Whether it is known that it serves no more."""
        return self.not_served_per_s is not None

    @property
    def highest_steady(self) -> Point | None:
        """The point of ``max_agents_per_s``."""
        steady = [point for point in self.points if point.outcome == "steady"]
        return next((point for point in steady if point.agents_per_s == self.max_agents_per_s), None)


class Online(msgspec.Struct, frozen=True):
    """All policies, and in ``text`` the contender against the baseline.

    ``ratio`` is that of their highest rates; ``ratio_bound`` says ``at least`` or ``at most`` where one of
    them was tried at no rate that it does not serve, and where that is so of both there is no ratio.
    ``ratio_low`` and ``ratio_high``: between them it lies, as finely as rates were tried.
    """

    slo: Slo
    policies: dict[str, Served]
    ratio: float | None
    ratio_bound: str
    ratio_low: float | None
    ratio_high: float | None
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
    ratio, ratio_bound, low, high = None, "", None, None
    if baseline != contender and {baseline, contender} <= set(policies):
        base, cont = policies[baseline], policies[contender]
        ratio, ratio_bound = _ratio(base, cont)
        low, high = _ratio_range(base, cont)
        text = _pair_in_words(baseline, base, contender, cont, slo)
    else:
        alone = (_in_words(name, served, slo) for name, served in policies.items())
        text = "; ".join(alone) or "no comparison: no arrival rate was measured"
    return Online(metadata.slo, policies, ratio, ratio_bound, low, high, text)


def slo_text(slo: Slo) -> str:
    """``TTFT <= 4 s, TPOT <= 50 ms``."""
    return f"TTFT <= {seconds(slo.ttft_s)}, TPOT <= {seconds(slo.tpot_s)}"


def _served(run: StoredRun, policy: str, search: StoredSearch) -> Served:
    within = search.max_agents_per_s or 0.0
    beyond = (p.agents_per_s for p in search.points if p.agents_per_s > within and p.outcome != "steady")
    return Served(
        max_agents_per_s=search.max_agents_per_s,
        not_served_per_s=min(beyond, default=None),
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


def _ratio_range(base: Served, cont: Served) -> tuple[float | None, float | None]:
    """Each policy's true highest rate is somewhere between one that it serves and one that it does not."""
    low = (
        cont.max_agents_per_s / base.not_served_per_s
        if cont.max_agents_per_s and base.not_served_per_s
        else None
    )
    high = (
        cont.not_served_per_s / base.max_agents_per_s
        if cont.not_served_per_s and base.max_agents_per_s
        else None
    )
    return low, high


def _pair_in_words(baseline: str, base: Served, contender: str, cont: Served, slo: str) -> str:
    ratio, bound = _ratio(base, cont)
    if ratio is not None:
        times = f"{bound} {ratio:.2f}x".strip()
        low, high = _ratio_range(base, cont)
        between = f"; {low:.2f}x to {high:.2f}x by the rates tried" if low and high else ""
        return f"{contender} serves {times} the agents of {baseline} within the SLO ({slo}){between}"
    each = f"{_in_words(contender, cont, slo)}; {_in_words(baseline, base, slo)}"
    if base.max_agents_per_s and cont.max_agents_per_s:
        return f"no comparison, no rate was too high: {each}"
    return each


def _in_words(name: str, served: Served, slo: str) -> str:
    if not served.max_agents_per_s:
        return f"{name} meets the SLO ({slo}) at none of the arrival rates measured"
    more = "" if served.limited else " or more"
    return f"{name} serves {number(served.max_agents_per_s)} agents/s{more} within the SLO ({slo})"
