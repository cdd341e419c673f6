"""``summary.json``: a run's analysis, for programs. Its keys are a contract; new ones may join."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec

from reports.ablation import Step, ablation
from reports.atomic_file import write_atomically
from reports.balance import Balance, balance
from reports.bottleneck import bottleneck
from reports.comparison import Comparison, Metric, compare, metric_of
from reports.emulation_gates import self_checks
from reports.evidence import Evidence
from reports.gates import Judgement, judge
from reports.metadata import Emulation
from reports.metrics import PolicyMetrics, policy_metrics
from reports.online import Online, online
from reports.stored_run import StoredRun
from reports.verdict import NO_PAIR, verdict
from reports.warnings import warnings

FORMAT_VERSION = 2
"""1: first version. 2: finding, balance, ablation, online; agent_jct_s was session_completion_s."""


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
    finding: str
    problems: list[str]
    warnings: list[str]
    gates: list[Judgement]
    resumed: bool
    trace: dict[str, Any]
    scale: dict[str, float]
    policies: dict[str, PolicyMetrics]
    comparison: Comparison | None
    pairwise: list[Comparison]
    storage_bandwidth_ratio: float | None
    balance: dict[str, Balance]
    ablation: list[Step]
    online: Online | None
    bottlenecks: dict[str, str]
    emulation: EmulationSummary


def analyse(run: StoredRun) -> Summary:
    """Metrics of every policy, then the gates, then what was found, in words."""
    metadata = run.metadata
    policies = {name: policy_metrics(run, name, run.complete(name)) for name in run.policies}
    evidence = Evidence(run, policies)
    gates = judge(evidence)
    problems = [problem.line for gate in gates for problem in gate.problems]
    served = online(run)
    metric = metric_of(run)
    pairwise = [] if served else [_compared(policies, metric, *pair) for pair in combinations(policies, 2)]
    wanted = (metadata.baseline, metadata.contender)
    comparison = None if served else _wanted(policies, metric, *wanted)
    finding = served.text if served else comparison.text if comparison else NO_PAIR
    bounds = _at_highest_load(served) if served else {name: bottleneck(m) for name, m in policies.items()}
    known_bounds = {name: bound for name, bound in bounds.items() if bound}
    return Summary(
        format_version=FORMAT_VERSION,
        run_id=metadata.run_id,
        experiment=str(metadata.experiment.get("name", "")),
        status=metadata.status,
        valid=not problems,
        verdict=verdict(finding, wanted, known_bounds, problems),
        finding=finding,
        problems=problems,
        warnings=warnings(evidence),
        gates=gates,
        resumed=len(metadata.attempts) > 1,
        trace=msgspec.to_builtins(metadata.trace),
        scale=msgspec.to_builtins(metadata.scale),
        policies=policies,
        comparison=comparison,
        pairwise=pairwise,
        storage_bandwidth_ratio=_storage_bandwidth_ratio(policies, comparison),
        balance={} if served else {name: balance(run, name) for name in policies},
        ablation=[] if served else ablation(run, policies),
        online=served,
        bottlenecks=known_bounds,
        emulation=EmulationSummary(
            **msgspec.structs.asdict(metadata.emulation), checks=self_checks(evidence)
        ),
    )


def write_summary(run: StoredRun, summary: Summary) -> None:
    """Write ``summary.json`` into the run directory, whole or not at all."""
    document = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    write_atomically(run.directory / "summary.json", document + b"\n")


def _compared(
    policies: dict[str, PolicyMetrics], metric: Metric, baseline: str, contender: str
) -> Comparison:
    return compare(baseline, metric.of(policies[baseline]), contender, metric.of(policies[contender]), metric)


def _wanted(
    policies: dict[str, PolicyMetrics], metric: Metric, baseline: str | None, contender: str | None
) -> Comparison | None:
    """The comparison that the experiment names; None where it names no two policies."""
    if baseline is None or contender is None or baseline == contender:
        return None
    return _compared(policies, metric, baseline, contender)


def _at_highest_load(served: Online) -> dict[str, str | None]:
    """What bounded each policy at the highest rate that it was tried at."""
    return {name: policy.points[-1].bottleneck for name, policy in served.policies.items() if policy.points}


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
