"""A run as a CI's test cases: that it ended, every gate, policy and problem, and the comparison.

Names do not depend on what was measured, so that a CI can follow each case from run to run; only cases of
problems come and go with them. Times are mean JCTs, emulated seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean

from reports.attempts import attempts_in_words
from reports.calibration import calibration_text
from reports.gates import Judgement
from reports.junit_xml import Case, Outcome, Suite, to_xml
from reports.metadata import Metadata
from reports.metrics import PolicyMetrics
from reports.problem import Problem
from reports.regression import regression, speedup_of
from reports.summary import Summary


def failed_document(name: str, message: str) -> str:
    """Of an experiment's run that left no records: one case, an error."""
    return to_xml(_class(name), [Suite(_class(name), [_ended(message)])])


def document(
    metadata: Metadata, summary: Summary, *, fail_below: float | None = None, error: str | None = None
) -> str:
    """Of a run, complete or not; ``error`` is what ended the command, if anything did.

    The comparison fails where the speedup is below ``fail_below`` (:mod:`reports.regression`).
    """
    name = _class(summary.experiment or summary.run_id)
    at = metadata.started_at
    output = [summary.verdict, *(f"warning: {warning}" for warning in summary.warnings)]
    suites = [
        Suite(name, [_ended(error, "\n".join(output))], at, _circumstances(metadata)),
        Suite(f"{name}.gates", [_gate(judgement) for judgement in summary.gates], at),
        Suite(f"{name}.policies", [_policy(metadata, summary, policy) for policy in summary.policies], at),
        Suite(f"{name}.comparison", [_comparison(summary, fail_below)], at),
        Suite(f"{name}.problems", list(_problems(summary)), at),
    ]
    return to_xml(name, [suite for suite in suites if suite.cases])


def _class(experiment: str) -> str:
    return f"dualpath.{experiment}"


def _ended(error: str | None, output: str = "") -> Case:
    return Case("run", Outcome("error", error) if error else None, output=output)


def _gate(judgement: Judgement) -> Case:
    outcome = Outcome("skipped", judgement.skipped) if judgement.skipped else None
    lines = [problem.line for problem in judgement.problems]
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        outcome = Outcome("failure", lines[0] + more, "\n".join(lines))
    return Case(judgement.gate, outcome, properties={"title": judgement.title})


def _policy(metadata: Metadata, summary: Summary, name: str) -> Case:
    """It passed if all its repetitions are complete: offline as many as the experiment asks for."""
    metrics = summary.policies[name]
    begun = sum(repetition.policy == name for repetition in metadata.repetitions)
    asked = metadata.experiment.get("measurement", {}).get("repetitions", 1)
    expected = begun if summary.online else max(begun, asked)
    complete = len(metrics.jct_s)
    outcome = None
    if complete < max(expected, 1):
        wanted = f"{max(expected, 1)} complete repetitions"
        problem = Problem("policy not measured in full", name, str(complete), wanted, "repeat the run")
        outcome = Outcome("failure", problem.line)
    bound = {"bottleneck": summary.bottlenecks[name]} if name in summary.bottlenecks else {}
    return Case(
        name,
        outcome,
        fmean(metrics.jct_s) if metrics.jct_s else 0.0,
        _figures(summary, name, metrics) | bound,
    )


def _figures(summary: Summary, name: str, metrics: PolicyMetrics) -> dict[str, str]:
    """Keys as in summary.json, means over repetitions; what there is none of is left out."""
    served = summary.online.policies.get(name) if summary.online else None
    figures: dict[str, float | None] = {
        "jct_s": fmean(metrics.jct_s) if metrics.jct_s else None,
        "jct_real_s": fmean(metrics.jct_real_s) if metrics.jct_real_s else None,
        "jct_cv": metrics.jct_cv,
        "turns_per_s": fmean(metrics.turns_per_s) if metrics.turns_per_s else None,
        "agent_jct_s.mean": metrics.agent_jct_s["mean"],
        "ttft_s.mean": metrics.ttft_s["mean"],
        "ttft_s.p99": metrics.ttft_s["p99"],
        "ttst_s.mean": metrics.ttst_s["mean"],
        "tpot_s.mean": metrics.tpot_s["mean"],
        "max_agents_per_s": served.max_agents_per_s if served else None,
        "bytes_read": metrics.bytes_read,
        "bytes_expected": metrics.bytes_expected,
        "prefill_engine_busy": metrics.prefill_engine_busy,
    }
    busy = {
        f"storage_nic.{host}.busy_utilization": nic.busy_utilization
        for host, nic in metrics.storage_nic.items()
    }
    return _known(figures | busy)


def _comparison(summary: Summary, fail_below: float | None) -> Case:
    found = speedup_of(summary)
    outcome = None
    if fail_below is not None and (problem := regression(summary, fail_below)):
        outcome = Outcome("failure", problem.line)
    elif found.value is None and found.low is None and found.high is None:
        outcome = Outcome("skipped", summary.finding)
    figures = {"speedup": found.value, "ci_low": found.low, "ci_high": found.high, "fail_below": fail_below}
    return Case("speedup", outcome, properties=_known(figures), output=summary.finding)


def _problems(summary: Summary) -> Iterator[Case]:
    for judgement in summary.gates:
        for problem in judgement.problems:
            yield Case(f"{judgement.gate}: {problem.where}", Outcome("failure", problem.line))


def _circumstances(metadata: Metadata) -> dict[str, str]:
    """What the figures hold in, as far as it is a line."""
    emulation = metadata.emulation
    return {
        "run_id": metadata.run_id,
        "status": metadata.status,
        "dualpath_version": metadata.dualpath_version,
        "trace_sha256": metadata.trace.sha256,
        "mode": emulation.mode,
        "storage": emulation.storage,
        "transport": emulation.transport,
        "calibration": calibration_text(metadata.calibration) if metadata.calibration else "none",
        "attempts": "; ".join(attempts_in_words(metadata)) or "one",
    }


def _known(figures: Mapping[str, float | None]) -> dict[str, str]:
    return {
        key: str(value) if isinstance(value, int) else f"{value:.6g}"
        for key, value in figures.items()
        if value is not None
    }
