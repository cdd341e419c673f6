"""Do a run's accounts agree? Its end, bytes, blocks and counters; :mod:`reports.gates` lists the gates.

Each failure is one line: what, where, found, expected, fix.
"""

from __future__ import annotations

from collections.abc import Iterator

from reports.compute_check import check_compute, compute_inapplicable
from reports.counter_check import check_counters, inapplicable
from reports.evidence import Evidence
from reports.metrics import expected_read_bytes
from reports.online import slo_text
from reports.problem import Problem, where
from reports.stored_run import of_repetition
from reports.units import number, percent

COUNTER_TOLERANCE = 0.05


def nothing_complete(evidence: Evidence) -> str | None:
    """Why no repetition can be judged."""
    return None if evidence.repetitions else "no repetition is complete"


def storage_nics_unchecked(evidence: Evidence) -> str | None:
    """Why storage NICs' counters cannot be judged."""
    return inapplicable(evidence.run) or nothing_complete(evidence)


def compute_nics_unchecked(evidence: Evidence) -> str | None:
    """Why compute NICs' counters cannot be judged."""
    sampled = (evidence.run.nic_samples["network"] == "compute").any()
    return compute_inapplicable(evidence.run) or (None if sampled else "no compute NIC was sampled")


def no_rate_tried(evidence: Evidence) -> str | None:
    """Why the SLO cannot be judged."""
    metadata = evidence.run.metadata
    if metadata.slo is None:
        return "offline: there is no SLO"
    tried = any(search.points for search in (metadata.online or {}).values())
    return None if tried else "no arrival rate was tried"


def run_ended(evidence: Evidence) -> Iterator[Problem]:
    """The run ran to its end."""
    metadata = evidence.run.metadata
    if metadata.status not in ("measured", "complete"):
        why = f" ({metadata.failure})" if metadata.failure else ""
        yield Problem(
            "run did not finish",
            "metadata.json: status",
            f"{metadata.status}{why}",
            "complete",
            "see logs/ and repeat the run",
        )


def repetitions_complete(evidence: Evidence) -> Iterator[Problem]:
    """So did every repetition that was begun."""
    for repetition in evidence.run.metadata.repetitions:
        if not repetition.complete:
            yield Problem(
                "incomplete repetition",
                where(repetition),
                f"{repetition.turns:,} turns when the run ended",
                "a repetition that ran to its end",
                "its figures are left out; repeat the run",
            )


def policies_measured(evidence: Evidence) -> Iterator[Problem]:
    """Both compared policies have a complete repetition."""
    metadata = evidence.run.metadata
    for policy in dict.fromkeys((metadata.baseline, metadata.contender)):
        if policy and not evidence.run.complete(policy):
            yield Problem(
                "policy without a result", policy, "no complete repetition", "at least one", "repeat the run"
            )


def bytes_read(evidence: Evidence) -> Iterator[Problem]:
    """By the back-ends' and by the transfers' account, exactly what the trace says was read."""
    run = evidence.run
    for repetition in evidence.repetitions:
        expected = expected_read_bytes(run, repetition)
        transfers = of_repetition(run.transfers, repetition.repetition, repetition.policy)
        accounts = {
            "storage back-ends": repetition.read_bytes,
            "transfers.parquet": int(transfers.loc[transfers["kind"] == "storage_read", "bytes"].sum()),
        }
        for account, found in accounts.items():
            if found != expected:
                yield Problem(
                    "bytes read differ from the trace's hit bytes",
                    f"{where(repetition)}, by {account}",
                    f"{found:,} B ({found - expected:+,})",
                    f"{expected:,} B",
                    "the read path skips or repeats blocks: compare transfers.parquet with the trace turn by "
                    "turn",
                )


def turns_served(evidence: Evidence) -> Iterator[Problem]:
    """Every turn, once."""
    for repetition in evidence.repetitions:
        if repetition.turns != repetition.expected_turns:
            yield Problem(
                "turns missing or repeated",
                where(repetition),
                str(repetition.turns),
                str(repetition.expected_turns),
                "see logs/ for turns that were dropped",
            )


def kv_content(evidence: Evidence) -> Iterator[Problem]:
    """Every checked block is right."""
    for repetition in evidence.repetitions:
        if repetition.mismatched_blocks:
            yield Problem(
                "KV content is wrong",
                where(repetition),
                f"{repetition.mismatched_blocks:,} of {repetition.verified_blocks:,} checked blocks differ",
                "none",
                "storage or transport corrupts or misplaces data: the hosts' logs name the blocks",
            )


def kv_checked(evidence: Evidence) -> Iterator[Problem]:
    """Some block was checked wherever any was read."""
    for repetition in evidence.repetitions:
        if not repetition.verified_blocks and expected_read_bytes(evidence.run, repetition):
            yield Problem(
                "KV content unchecked",
                where(repetition),
                "no block verified",
                "a sample",
                "set the experiment's verification interval so that at least one block a repetition is "
                "checked",
            )


def storage_nics_sampled(evidence: Evidence) -> Iterator[Problem]:
    """There are samples to compare with what was read."""
    hosts = {host.name for host in evidence.run.serving_hosts}
    for repetition in evidence.repetitions:
        sampled = {check.host for check in check_counters(evidence.run, repetition)}
        for host in sorted(hosts - sampled):
            yield Problem(
                "storage NIC not sampled",
                f"{where(repetition)}, {host}",
                "fewer than two counter samples",
                "samples over the whole repetition",
                "check the NIC's name and the agent's log",
            )


def storage_nic_bytes(evidence: Evidence) -> Iterator[Problem]:
    """They counted what was read, and nothing else."""
    for repetition in evidence.repetitions:
        for check in check_counters(evidence.run, repetition):
            if check.deviation > COUNTER_TOLERANCE:
                yield Problem(
                    "interface counter and accounted bytes differ",
                    f"{where(repetition)}, {check.host}",
                    f"{check.counter_bytes:,.0f} B received, {percent(check.deviation)} off",
                    f"{check.payload_bytes:,.0f} to {check.wire_high_bytes:,.0f} B within "
                    f"{percent(COUNTER_TOLERANCE, 0)}",
                    "other traffic used the NIC, reads bypassed it, or samples are missing",
                )


def compute_nic_bytes(evidence: Evidence) -> Iterator[Problem]:
    """They counted at least the Layer Blocks."""
    for repetition in evidence.repetitions:
        for check in check_compute(evidence.run, repetition):
            if check.shortfall > COUNTER_TOLERANCE:
                yield Problem(
                    "Layer Blocks did not cross the compute NIC",
                    f"{where(repetition)}, {check.host}",
                    f"{check.counter_bytes:,.0f} B received",
                    f"at least {check.payload_bytes:,} B within {percent(COUNTER_TOLERANCE, 0)}",
                    "the transport took another way (shared memory, another NIC), or samples are missing",
                )


def some_rate_served(evidence: Evidence) -> Iterator[Problem]:
    """Online: rates that no policy can serve compare nothing. That only one can is a finding."""
    metadata = evidence.run.metadata
    searches = metadata.online or {}
    tried = [
        f"{name} at {number(point.agents_per_s)} ({point.outcome})"
        for name, search in searches.items()
        for point in search.points
    ]
    if metadata.slo and not any(search.max_agents_per_s for search in searches.values()):
        yield Problem(
            "no policy meets the SLO",
            "metadata.json: online",
            f"{', '.join(tried)} agents/s",
            f"at least one rate steady within {slo_text(metadata.slo)}",
            "lower online.search_from or online.agents_per_s, or relax the SLO; raise online.limit_s for "
            "points that ended with time_limit",
        )
