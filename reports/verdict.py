"""The run in a sentence or two: what the comparison says, and which resource bounded each policy."""

from __future__ import annotations

from statistics import fmean

from reports.metrics import PolicyMetrics, SnicMetrics
from reports.statistics import Comparison
from reports.units import percent

SATURATED = 0.80
"""Utilization from which a resource is called the bound; between it and 1 lie ramps, tails and imbalance."""


def verdict(comparison: Comparison | None, bottlenecks: dict[str, str], problems: list[str]) -> str:
    """One paragraph of plain text; an invalid run says so before anything else."""
    sentences = [comparison.text] if comparison else ["no comparison: the run has no pair of policies"]
    if comparison:
        names = (comparison.baseline, comparison.contender)
        sentences += [f"{name}: {bottlenecks[name]}" for name in names if name in bottlenecks]
    text = ". ".join(sentences) + "."
    if not problems:
        return text
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"Not a result ({count}). Measured nevertheless: {text}"


def bottleneck(metrics: PolicyMetrics) -> str | None:
    """Which resource bounded one policy; None without a complete repetition."""
    if not metrics.jct_s:
        return None
    storage = {role: _role(metrics, role) for role in ("prefill", "decode")}
    busiest = max((use for use, _ in storage.values() if use is not None), default=0.0)
    engines = metrics.prefill_engine_busy or 0.0
    nics = "; ".join(text for use, text in storage.values() if use is not None)
    if busiest >= SATURATED and busiest >= engines:
        return f"bounded by storage NICs: {nics}"
    if engines >= SATURATED:
        return f"bounded by compute: prefill engines busy {percent(engines, 0)} of the time" + (
            f"; {nics}" if nics else ""
        )
    parts = {name: value for name, value in metrics.ttft_breakdown_s.items() if value > 0}
    if not parts:
        return "no saturated resource"
    part = max(parts, key=lambda name: parts[name])
    share = percent(parts[part] / sum(parts.values()), 0)
    largest = f"most of TTFT is {part.replace('_', ' ')} ({share})"
    return f"no saturated resource (prefill engines busy {percent(engines, 0)}); {largest}" + (
        f"; {nics}" if nics else ""
    )


def _role(metrics: PolicyMetrics, role: str) -> tuple[float | None, str]:
    nics = [nic for nic in metrics.storage_nic.values() if nic.role == role]
    used = [nic for nic in nics if nic.busy_utilization is not None]
    if not used:
        return None, ""
    use = fmean(nic.busy_utilization or 0.0 for nic in used)
    return use, f"{role} storage NICs ran at {percent(use, 0)} of their measured ceiling{_idle(nics)}"


def _idle(nics: list[SnicMetrics]) -> str:
    if any(nic.expected_busy for nic in nics):
        return ""
    return " (idle but for persisted blocks)" if any(nic.bytes for nic in nics) else " (idle)"
