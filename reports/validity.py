"""Is a run a result? The gates it has to pass, each failure in one line: what, where, found, expected, fix.

Problems make a run invalid: its figures describe the emulation or an accident, not the policies. Warnings
leave it valid and say what a careful reader should know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import numpy as np

from reports.counter_check import PAYLOAD_SHARE, check_counters, inapplicable
from reports.metrics import PolicyMetrics, expected_read_bytes
from reports.stored_run import ORACLE, Repetition, StoredRun, of_repetition
from reports.units import percent

COUNTER_TOLERANCE = 0.05
LINK_TOLERANCE = 0.08
CPU_SATURATED = 0.95
CPU_SATURATED_SHARE = 0.50
CPU_MEAN = 0.92
DECISION_SHARE = 0.05
CONTROL_CPU_SHARE = 0.90
CONTROL_TTFT_SHARE = 0.10
TELEMETRY_CPU_SHARE = 0.02
SAMPLING_S = 0.1
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
            *_links(run),
            *(line for r in repetitions for line in _control(r)),
            *_control_in_ttft(run, policies, compared=True),
            *_cpu(run, repetitions),
        ],
        warnings=[
            *_not_checked(run),
            *_control_in_ttft(run, policies, compared=False),
            *_few_or_scattered(policies),
            *_underused(policies),
            *_telemetry(run, repetitions),
        ],
        checks={
            "link_rate_error": link_rate_errors(run),
            "cpu_busy_mean": _worst(_cpu_of(run, r)[0] for r in repetitions),
            "cpu_saturated_fraction": _worst(_cpu_of(run, r)[1] for r in repetitions),
            "decision_share": _worst(r.control.decision_s_total / (r.jct_s or 1.0) for r in repetitions),
            "message_rtt_s_p99": _worst(r.control.message_rtt_s_p99 or 0.0 for r in repetitions),
            "loop_lag_s_p99": _worst(r.control.loop_lag_s_p99 or 0.0 for r in repetitions),
            "telemetry_cpu_share": _worst(
                cpu_s / (r.jct_s or 1.0) for r in repetitions for cpu_s in r.telemetry_cpu_s.values()
            ),
        },
    )


def link_rate_errors(run: StoredRun) -> dict[str, float]:
    """Measured ceiling over the nominal link's payload share, minus 1, for hosts whose link is shaped."""
    ceilings = run.metadata.ceilings
    return {
        host.name: ceilings[host.name].storage_read_bytes_per_s * 8 / (nominal * 1e9 * PAYLOAD_SHARE) - 1
        for host in run.serving_hosts
        if (nominal := host.storage_nic_nominal_gbit_per_s) and host.name in ceilings
    }


def _problem(what: str, where: str, found: str, expected: str, fix: str) -> str:
    return f"{what}: {where}: found {found}, expected {expected}; {fix}"


def _at(repetition: Repetition) -> str:
    return f"repetition {repetition.repetition} ({repetition.policy})"


def _status(run: StoredRun) -> Iterator[str]:
    metadata = run.metadata
    if metadata.status not in ("measured", "complete"):
        why = f" ({metadata.failure})" if metadata.failure else ""
        yield _problem(
            "run did not finish",
            "metadata.json: status",
            f"{metadata.status}{why}",
            "complete",
            "see logs/ and repeat the run",
        )
    for repetition in metadata.repetitions:
        if not repetition.complete:
            yield _problem(
                "incomplete repetition",
                _at(repetition),
                f"{repetition.turns} of {metadata.expected.turns_per_repetition} turns",
                "all of them",
                "its figures are left out; repeat the run",
            )
    for policy in dict.fromkeys((metadata.baseline, metadata.contender)):
        if policy and not run.complete(policy):
            yield _problem(
                "policy without a result", policy, "no complete repetition", "at least one", "repeat the run"
            )


def _bytes(run: StoredRun, repetition: Repetition) -> Iterator[str]:
    expected = expected_read_bytes(run, repetition.policy)
    transfers = of_repetition(run.transfers, repetition.repetition, repetition.policy)
    accounts = {
        "storage back-ends": repetition.read_bytes,
        "transfers.parquet": int(transfers.loc[transfers["kind"] == "storage_read", "bytes"].sum()),
    }
    for account, found in accounts.items():
        if found != expected:
            yield _problem(
                "bytes read differ from the trace's hit bytes",
                f"{_at(repetition)}, by {account}",
                f"{found:,} B ({found - expected:+,})",
                f"{expected:,} B",
                "the read path skips or repeats blocks: compare transfers.parquet with the trace turn by "
                "turn",
            )
    turns = run.metadata.expected.turns_per_repetition
    if repetition.turns != turns:
        yield _problem(
            "turns missing or repeated",
            _at(repetition),
            str(repetition.turns),
            str(turns),
            "see logs/ for turns that were dropped",
        )


def _blocks(run: StoredRun, repetition: Repetition) -> Iterator[str]:
    if repetition.mismatched_blocks:
        yield _problem(
            "KV content is wrong",
            _at(repetition),
            f"{repetition.mismatched_blocks:,} of {repetition.verified_blocks:,} checked blocks differ",
            "none",
            "storage or transport corrupts or misplaces data: the hosts' logs name the blocks",
        )
    if not repetition.verified_blocks and expected_read_bytes(run, repetition.policy):
        yield _problem(
            "KV content unchecked",
            _at(repetition),
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
            yield _problem(
                "storage NIC not sampled",
                f"{_at(repetition)}, {host}",
                "fewer than two counter samples",
                "samples over the whole repetition",
                "check the NIC's name and the agent's log",
            )
        for check in checks:
            if check.deviation > COUNTER_TOLERANCE:
                yield _problem(
                    "interface counter and accounted bytes differ",
                    f"{_at(repetition)}, {check.host}",
                    f"{check.counter_bytes:,.0f} B received, {percent(check.deviation)} off",
                    f"{check.payload_bytes:,.0f} to {check.wire_high_bytes:,.0f} B within "
                    f"{percent(COUNTER_TOLERANCE, 0)}",
                    "other traffic used the NIC, reads bypassed it, or samples are missing",
                )


def _links(run: StoredRun) -> Iterator[str]:
    for host, error in link_rate_errors(run).items():
        if abs(error) > LINK_TOLERANCE:
            yield _problem(
                "link rate off",
                host,
                f"a measured ceiling {error * 100:+.1f} % from the nominal payload rate",
                f"within {percent(LINK_TOLERANCE, 0)}",
                "the machine cannot carry this rate, or shaping failed: raise the scale divisor or use "
                "fewer hosts",
            )
    for unmeasured in run.serving_hosts:
        if run.metadata.repetitions and unmeasured.name not in run.metadata.ceilings:
            yield _problem(
                "ceiling not measured",
                unmeasured.name,
                "no storage ceiling",
                "one measured just before the repetitions",
                "repeat the run with calibration",
            )


def _control(repetition: Repetition) -> Iterator[str]:
    jct_s = repetition.jct_s or 1.0
    control = repetition.control
    if control.decision_s_total / jct_s > DECISION_SHARE:
        yield _problem(
            "control plane is the bottleneck",
            _at(repetition),
            f"routing decisions took {percent(control.decision_s_total / jct_s)} of the JCT",
            f"at most {percent(DECISION_SHARE, 0)}",
            "raise the time dilation",
        )
    if control.cpu_s / jct_s > CONTROL_CPU_SHARE:
        yield _problem(
            "control plane is the bottleneck",
            _at(repetition),
            f"the control node used {percent(control.cpu_s / jct_s, 0)} of a core",
            f"at most {percent(CONTROL_CPU_SHARE, 0)}",
            "raise the time dilation or use fewer sessions",
        )


def _control_in_ttft(run: StoredRun, policies: dict[str, PolicyMetrics], *, compared: bool) -> Iterator[str]:
    """Fatal for the compared pair; elsewhere (oracle's turns are short) worth a word."""
    pair = (run.metadata.baseline, run.metadata.contender)
    for name, metrics in policies.items():
        ttft_s = metrics.ttft_s.get("mean")
        control_s = metrics.ttft_breakdown_s.get("control", 0.0)
        if (name in pair) is compared and ttft_s and control_s / ttft_s > CONTROL_TTFT_SHARE:
            yield _problem(
                "control plane weighs on TTFT",
                name,
                f"{percent(control_s / ttft_s)} of mean TTFT spent on control messages",
                f"at most {percent(CONTROL_TTFT_SHARE, 0)}",
                "raise the time dilation",
            )


def _cpu_of(run: StoredRun, repetition: Repetition) -> tuple[float, float]:
    """Mean busy fraction and share of saturated samples of the busiest machine, (0, 0) without samples."""
    samples = of_repetition(run.host_samples, repetition.repetition, repetition.policy)
    samples = samples[samples["at_ns"].between(0, (repetition.jct_s or 0.0) * 1e9)]
    by_host = [group["cpu_busy_fraction"].to_numpy(dtype=np.float64) for _, group in samples.groupby("host")]
    return max(
        ((float(busy.mean()), float((busy > CPU_SATURATED).mean())) for busy in by_host), default=(0.0, 0.0)
    )


def _cpu(run: StoredRun, repetitions: list[Repetition]) -> Iterator[str]:
    busy = [(*_cpu_of(run, repetition), _at(repetition)) for repetition in repetitions]
    over = [load for load in busy if load[0] > CPU_MEAN or load[1] > CPU_SATURATED_SHARE]
    if over:
        mean, saturated, worst = max(over)
        found = f"{percent(mean, 0)} busy on average, saturated in {percent(saturated, 0)} of the samples"
        yield _problem(
            "CPU is the bottleneck",
            f"{len(over)} of {len(busy)} repetitions, worst in {worst}",
            found,
            f"at most {percent(CPU_MEAN, 0)} on average and {percent(CPU_SATURATED_SHARE, 0)} of the samples",
            "raise the scale divisor, use fewer hosts, or stop what else runs on the machine",
        )


def _not_checked(run: StoredRun) -> Iterator[str]:
    reason = inapplicable(run)
    if reason:
        yield f"not checked: {reason}"


def _few_or_scattered(policies: dict[str, PolicyMetrics]) -> Iterator[str]:
    for name, metrics in policies.items():
        if len(metrics.jct_s) == 1:
            yield f"one repetition of {name}: its spread is unknown, no confidence interval"
        if metrics.jct_cv is not None and metrics.jct_cv > JCT_CV:
            yield f"JCTs of {name} vary by {percent(metrics.jct_cv)}; under {percent(JCT_CV, 0)} is usual"


def _underused(policies: dict[str, PolicyMetrics]) -> Iterator[str]:
    """Only where some storage NIC was the bottleneck: elsewhere idle NICs are the finding, not a flaw."""
    for name, metrics in policies.items():
        nics = {host: nic.busy_utilization for host, nic in metrics.storage_nic.items() if nic.expected_busy}
        busy = {host: value for host, value in nics.items() if value is not None}
        if name == ORACLE or not busy or max(busy.values()) < BUSY_UTILIZATION:
            continue
        for host, value in busy.items():
            if value < BUSY_UTILIZATION:
                yield (
                    f"uneven storage NICs under {name}: {host} at {percent(value)} of its ceiling in the "
                    f"busy window while another runs at {percent(max(busy.values()))}"
                )


def _telemetry(run: StoredRun, repetitions: Iterable[Repetition]) -> Iterator[str]:
    costs = [
        (cost_s / (r.jct_s or 1.0), host) for r in repetitions for host, cost_s in r.telemetry_cpu_s.items()
    ]
    share, host = max(costs, default=(0.0, ""))
    if share > TELEMETRY_CPU_SHARE:
        usual = percent(TELEMETRY_CPU_SHARE, 0)
        yield f"telemetry used {percent(share)} of a core on {host}; at most {usual} is usual"
    keys = ["repetition", "policy", "host", "nic"]
    intervals_ns = run.nic_samples.sort_values("at_ns").groupby(keys)["at_ns"].diff().dropna()
    if len(intervals_ns) and intervals_ns.median() > 1.1 * SAMPLING_S * 1e9:
        interval_s = intervals_ns.median() / 1e9
        yield f"NIC counters were sampled every {interval_s:.2f} s, slower than {SAMPLING_S} s"


def _worst(values: Iterable[float]) -> float | None:
    return max(values, default=None)
