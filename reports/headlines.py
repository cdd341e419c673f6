"""The page's headline figures and the line that the speedup lies on."""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from reports.online import Online
from reports.summary import Summary
from reports.units import ABSENT, number, seconds


class Figure(NamedTuple):
    """One of the page's headline figures."""

    label: str
    value: str
    detail: str


class Interval(NamedTuple):
    """The speedup on a line, positions in percent of its width; bounds absent with one repetition."""

    value: float
    low: float | None
    high: float | None
    one: float
    bound: float | None
    bound_text: str


def headlines(summary: Summary) -> list[Figure]:
    """What the verdict rests on, as far as the run has it."""
    return _online_figures(summary.online) if summary.online else _offline_figures(summary)


def _online_figures(online: Online) -> list[Figure]:
    """The ratio, and every policy's highest arrival rate within the SLO."""
    detail = ", ".join(filter(None, ("contender / baseline", online.ratio_bound)))
    figures = [Figure("Agents served", f"{online.ratio:.2f}x" if online.ratio else ABSENT, detail)]
    for name, served in online.policies.items():
        rate = number(served.max_agents_per_s) if served.max_agents_per_s else "none"
        tried = ", ".join(number(point.agents_per_s) for point in served.points)
        figures.append(
            Figure(f"Agents/s, {name}", rate, f"real hardware, within the SLO; measured at {tried}")
        )
    return figures


def _offline_figures(summary: Summary) -> list[Figure]:
    """Speedup, what it compares, and how busy the storage NICs were."""
    comparison = summary.comparison
    if comparison is None:
        return []
    found = comparison.speedup
    detail = "no interval: fewer than two repetitions"
    if found is None:
        detail = "no complete repetitions of both policies"
    elif found.ci_low is not None and found.ci_high is not None:
        detail = f"95 % interval {found.ci_low:.2f} – {found.ci_high:.2f}"
        detail += "" if comparison.significant else ": no significant difference"
    metric = comparison.metric
    figures = [Figure(f"Speedup ({metric.words})", f"{found.value:.2f}x" if found else ABSENT, detail)]
    for name in (comparison.baseline, comparison.contender):
        values_s = metric.of(summary.policies[name])
        mean_s = fmean(values_s) if values_s else None
        real_s = mean_s / summary.scale["time_dilation"] if mean_s is not None else None
        label = f"{metric.words[0].upper()}{metric.words[1:]}, {name}"
        figures.append(Figure(label, seconds(mean_s), f"emulated; {seconds(real_s)} on the real hardware"))
    for name in (comparison.baseline, comparison.contender):
        roles = {
            role: [
                nic.busy_utilization
                for nic in summary.policies[name].storage_nic.values()
                if nic.role == role and nic.busy_utilization is not None
            ]
            for role in ("prefill", "decode")
        }
        shown = " / ".join(f"{fmean(uses) * 100:.0f}" if uses else ABSENT for uses in roles.values()) + " %"
        figures.append(
            Figure(f"SNICs busy, {name}", shown, "prefill / decode hosts, of their measured ceiling")
        )
    return figures


def speedup_interval(summary: Summary) -> Interval | None:
    """Where speedup, interval, 1 and the storage bandwidth's ratio lie on one line."""
    found = summary.comparison.speedup if summary.comparison else None
    if found is None:
        return None
    bound = summary.storage_bandwidth_ratio
    marks = [1.0, found.value, found.ci_low or 1.0, found.ci_high or 1.0, bound or 1.0]
    low, high = min(marks), max(marks)
    margin = max(high - low, 0.1) * 0.1

    def position(value: float | None) -> float | None:
        if value is None:
            return None
        return round(100 * (value - low + margin) / (high - low + 2 * margin), 2)

    return Interval(
        value=position(found.value) or 0.0,
        low=position(found.ci_low),
        high=position(found.ci_high),
        one=position(1.0) or 0.0,
        bound=position(bound),
        bound_text=f"{bound:.2f}x" if bound else "",
    )
