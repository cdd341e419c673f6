"""Is a run a result? The gates it has to pass, each failure in one line: what, where, found, expected, fix.

Problems make a run invalid: its figures describe the emulation or an accident, not the policies. Warnings
leave it valid and say what a careful reader should know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from reports.comparison import metric_of
from reports.compute_check import check_compute, compute_inapplicable
from reports.counter_check import check_counters, inapplicable
from reports.emulation_gates import emulation_problems, emulation_warnings, self_checks
from reports.metadata import Repetition
from reports.metrics import PolicyMetrics, expected_read_bytes
from reports.nic_tables import link_errors
from reports.online import slo_text
from reports.problem import problem, where
from reports.statistics import coefficient_of_variation
from reports.stored_run import StoredRun, of_repetition
from reports.units import number, percent

COUNTER_TOLERANCE = 0.05
BUSY_UTILIZATION = 0.92
JCT_CV = 0.05


class Verdicts(msgspec.Struct, frozen=True):
    """What the gates found, and the emulation's self-checks as figures."""

    problems: list[str]
    warnings: list[str]
    checks: dict[str, float | dict[str, float] | None]


def judge(run: StoredRun, policies: dict[str, PolicyMetrics]) -> Verdicts:
    """Pass a run through every gate."""
    repetitions = [r for policy in policies for r in run.complete(policy)]
    return Verdicts(
        problems=[
            *_status(run),
            *(line for r in repetitions for line in _bytes(run, r)),
            *(line for r in repetitions for line in _blocks(run, r)),
            *_counters(run, repetitions),
            *_compute_counters(run, repetitions),
            *_no_rate_served(run),
            *emulation_problems(run, policies, repetitions),
        ],
        warnings=[
            *run.metadata.warnings,
            *_not_checked(run),
            *link_errors(run),
            *_few_or_scattered(run, policies),
            *_underused(run, policies),
            *emulation_warnings(run, policies, repetitions),
        ],
        checks=self_checks(run, repetitions),
    )


def _status(run: StoredRun) -> Iterator[str]:
    metadata = run.metadata
    if metadata.status not in ("measured", "complete"):
        why = f" ({metadata.failure})" if metadata.failure else ""
        yield problem(
            "run did not finish",
            "metadata.json: status",
            f"{metadata.status}{why}",
            "complete",
            "see logs/ and repeat the run",
        )
    for repetition in metadata.repetitions:
        if not repetition.complete:
            yield problem(
                "incomplete repetition",
                where(repetition),
                f"{repetition.turns:,} turns when the run ended",
                "a repetition that ran to its end",
                "its figures are left out; repeat the run",
            )
    for policy in dict.fromkeys((metadata.baseline, metadata.contender)):
        if policy and not run.complete(policy):
            yield problem(
                "policy without a result", policy, "no complete repetition", "at least one", "repeat the run"
            )


def _bytes(run: StoredRun, repetition: Repetition) -> Iterator[str]:
    expected = expected_read_bytes(run, repetition)
    transfers = of_repetition(run.transfers, repetition.repetition, repetition.policy)
    accounts = {
        "storage back-ends": repetition.read_bytes,
        "transfers.parquet": int(transfers.loc[transfers["kind"] == "storage_read", "bytes"].sum()),
    }
    for account, found in accounts.items():
        if found != expected:
            yield problem(
                "bytes read differ from the trace's hit bytes",
                f"{where(repetition)}, by {account}",
                f"{found:,} B ({found - expected:+,})",
                f"{expected:,} B",
                "the read path skips or repeats blocks: compare transfers.parquet with the trace turn by "
                "turn",
            )
    if repetition.turns != repetition.expected_turns:
        yield problem(
            "turns missing or repeated",
            where(repetition),
            str(repetition.turns),
            str(repetition.expected_turns),
            "see logs/ for turns that were dropped",
        )


def _blocks(run: StoredRun, repetition: Repetition) -> Iterator[str]:
    if repetition.mismatched_blocks:
        yield problem(
            "KV content is wrong",
            where(repetition),
            f"{repetition.mismatched_blocks:,} of {repetition.verified_blocks:,} checked blocks differ",
            "none",
            "storage or transport corrupts or misplaces data: the hosts' logs name the blocks",
        )
    if not repetition.verified_blocks and expected_read_bytes(run, repetition):
        yield problem(
            "KV content unchecked",
            where(repetition),
            "no block verified",
            "a sample",
            "set the experiment's verification interval so that at least one block a repetition is checked",
        )


def _counters(run: StoredRun, repetitions: Iterable[Repetition]) -> Iterator[str]:
    if inapplicable(run):
        return
    for repetition in repetitions:
        checks = check_counters(run, repetition)
        unseen = {host.name for host in run.serving_hosts} - {check.host for check in checks}
        for host in sorted(unseen):
            yield problem(
                "storage NIC not sampled",
                f"{where(repetition)}, {host}",
                "fewer than two counter samples",
                "samples over the whole repetition",
                "check the NIC's name and the agent's log",
            )
        for check in checks:
            if check.deviation > COUNTER_TOLERANCE:
                yield problem(
                    "interface counter and accounted bytes differ",
                    f"{where(repetition)}, {check.host}",
                    f"{check.counter_bytes:,.0f} B received, {percent(check.deviation)} off",
                    f"{check.payload_bytes:,.0f} to {check.wire_high_bytes:,.0f} B within "
                    f"{percent(COUNTER_TOLERANCE, 0)}",
                    "other traffic used the NIC, reads bypassed it, or samples are missing",
                )


def _compute_counters(run: StoredRun, repetitions: Iterable[Repetition]) -> Iterator[str]:
    if compute_inapplicable(run):
        return
    for repetition in repetitions:
        for check in check_compute(run, repetition):
            if check.shortfall > COUNTER_TOLERANCE:
                yield problem(
                    "Layer Blocks did not cross the compute NIC",
                    f"{where(repetition)}, {check.host}",
                    f"{check.counter_bytes:,.0f} B received",
                    f"at least {check.payload_bytes:,} B within {percent(COUNTER_TOLERANCE, 0)}",
                    "the transport took another way (shared memory, another NIC), or samples are missing",
                )


def _no_rate_served(run: StoredRun) -> Iterator[str]:
    """Online: rates that no policy can serve compare nothing. That only one can is a finding."""
    metadata = run.metadata
    searches = metadata.online or {}
    tried = [
        f"{name} at {number(point.agents_per_s)} ({point.outcome})"
        for name, search in searches.items()
        for point in search.points
    ]
    if metadata.slo and tried and not any(search.max_agents_per_s for search in searches.values()):
        yield problem(
            "no policy meets the SLO",
            "metadata.json: online",
            f"{', '.join(tried)} agents/s",
            f"at least one rate steady within {slo_text(metadata.slo)}",
            "lower online.search_from or online.agents_per_s, or relax the SLO; raise online.limit_s for "
            "points that ended with time_limit",
        )


def _not_checked(run: StoredRun) -> Iterator[str]:
    reasons = dict.fromkeys((inapplicable(run), compute_inapplicable(run)))
    yield from (f"not checked: {reason}" for reason in reasons if reason)


def _few_or_scattered(run: StoredRun, policies: dict[str, PolicyMetrics]) -> Iterator[str]:
    """Offline only: the repetitions of an online run are different loads, whose JCTs have to differ."""
    if run.metadata.online is not None:
        return
    metric = metric_of(run)
    for name, metrics in policies.items():
        values_s = metric.of(metrics)
        if len(values_s) == 1:
            yield f"one repetition of {name}: its spread is unknown, no confidence interval"
        spread = coefficient_of_variation(values_s)
        if spread is not None and spread > JCT_CV:
            yield f"{name}: {metric.words} varies by {percent(spread)}; under {percent(JCT_CV, 0)} is usual"


def _underused(run: StoredRun, policies: dict[str, PolicyMetrics]) -> Iterator[str]:
    """Only where some storage NIC was the bottleneck: elsewhere idle NICs are the finding, not a flaw."""
    for name, metrics in policies.items():
        nics = {host: nic.busy_utilization for host, nic in metrics.storage_nic.items() if nic.expected_busy}
        busy = {host: value for host, value in nics.items() if value is not None}
        if run.is_oracle(name) or not busy or max(busy.values()) < BUSY_UTILIZATION:
            continue
        for host, value in busy.items():
            if value < BUSY_UTILIZATION:
                yield (
                    f"uneven storage NICs under {name}: {host} at {percent(value)} of its ceiling in the "
                    f"busy window while another runs at {percent(max(busy.values()))}"
                )
