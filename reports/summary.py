"""``summary.json``: a run's analysis, for programs. Its keys are a contract; new ones may join."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec

from reports.atomic_file import write_atomically
from reports.metrics import PolicyMetrics, policy_metrics
from reports.statistics import Comparison, compare
from reports.stored_run import Emulation, StoredRun
from reports.validity import judge
from reports.verdict import bottleneck, verdict

FORMAT_VERSION = 1
"""1: first version."""


class EmulationSummary(Emulation, frozen=True, kw_only=True):
    """How the cluster was made, with the worst figure of each self-check."""

    checks: dict[str, Any]


class Summary(msgspec.Struct, frozen=True):
    """A run's analysis. Times are emulated seconds unless a name says ``real``; see reports.definitions."""

    format_version: int
    run_id: str
    experiment: str
    status: str
    valid: bool
    verdict: str
    problems: list[str]
    warnings: list[str]
    trace: dict[str, Any]
    scale: dict[str, float]
    policies: dict[str, PolicyMetrics]
    comparison: Comparison | None
    pairwise: list[Comparison]
    storage_bandwidth_ratio: float | None
    bottlenecks: dict[str, str]
    emulation: EmulationSummary


def analyse(run: StoredRun) -> Summary:
    """Metrics of every policy, then the gates, then the comparison in words."""
    metadata = run.metadata
    policies = {name: policy_metrics(run, name) for name in run.policies}
    gates = judge(run, policies)
    pairwise = [
        compare(first, policies[first].jct_s, second, policies[second].jct_s)
        for first, second in combinations(policies, 2)
    ]
    wanted = (metadata.baseline, metadata.contender)
    comparison = next((pair for pair in pairwise if (pair.baseline, pair.contender) == wanted), None)
    bounds = {name: bound for name, metrics in policies.items() if (bound := bottleneck(metrics))}
    return Summary(
        format_version=FORMAT_VERSION,
        run_id=metadata.run_id,
        experiment=str(metadata.experiment.get("name", "")),
        status=metadata.status,
        valid=not gates.problems,
        verdict=verdict(comparison, bounds, gates.problems),
        problems=gates.problems,
        warnings=gates.warnings,
        trace=msgspec.to_builtins(metadata.trace),
        scale=msgspec.to_builtins(metadata.scale),
        policies=policies,
        comparison=comparison,
        pairwise=pairwise,
        storage_bandwidth_ratio=_storage_bandwidth_ratio(policies, comparison),
        bottlenecks=bounds,
        emulation=EmulationSummary(**msgspec.structs.asdict(metadata.emulation), checks=gates.checks),
    )


def write_summary(run: StoredRun, summary: Summary) -> None:
    """Write ``summary.json`` into the run directory, whole or not at all."""
    document = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    write_atomically(run.directory / "summary.json", document + b"\n")


def _storage_bandwidth_ratio(
    policies: dict[str, PolicyMetrics], comparison: Comparison | None
) -> float | None:
    """Summed ceilings of the NICs that the contender reads through / of those of the baseline.

    The speedup's upper bound as long as storage reads are the only bottleneck.
    """
    if comparison is None:
        return None
    usable = [
        sum(nic.ceiling_gbit_per_s or 0.0 for nic in policies[name].storage_nic.values() if nic.expected_busy)
        for name in (comparison.baseline, comparison.contender)
    ]
    return usable[1] / usable[0] if all(usable) else None
