"""Was the emulation the bottleneck? Links, CPU, control plane and telemetry against what they may cost.

A run that fails here measured the machine that emulates, not the policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from reports.counter_check import PAYLOAD_SHARE
from reports.metadata import Repetition
from reports.metrics import PolicyMetrics
from reports.problem import problem, where
from reports.stored_run import StoredRun, of_repetition
from reports.units import percent

LINK_TOLERANCE = 0.08
CPU_SATURATED = 0.95
CPU_SATURATED_SHARE = 0.50
CPU_MEAN = 0.92
DECISION_SHARE = 0.05
CONTROL_CPU_SHARE = 0.90
CONTROL_TTFT_SHARE = 0.10
TELEMETRY_CPU_SHARE = 0.02
SAMPLING_S = 0.1


def emulation_problems(
    run: StoredRun, policies: dict[str, PolicyMetrics], repetitions: list[Repetition]
) -> Iterator[str]:
    """Where the emulation bounded what was measured."""
    yield from _links(run)
    for repetition in repetitions:
        yield from _control(repetition)
    yield from _control_in_ttft(run, policies, compared=True)
    yield from _cpu(run, repetitions)


def emulation_warnings(
    run: StoredRun, policies: dict[str, PolicyMetrics], repetitions: list[Repetition]
) -> Iterator[str]:
    """Where it cost more than usual."""
    yield from _control_in_ttft(run, policies, compared=False)
    yield from _telemetry(run, repetitions)


def self_checks(run: StoredRun, repetitions: list[Repetition]) -> dict[str, float | dict[str, float] | None]:
    """The worst repetition's figures; None where no repetition is complete."""
    return {
        "link_rate_error": _link_rate_errors(run),
        "cpu_busy_mean": _worst(_cpu_of(run, r)[0] for r in repetitions),
        "cpu_saturated_fraction": _worst(_cpu_of(run, r)[1] for r in repetitions),
        "decision_share": _worst(r.control.decision_s_total / (r.jct_s or 1.0) for r in repetitions),
        "message_rtt_s_p99": _worst(r.control.message_rtt_s_p99 or 0.0 for r in repetitions),
        "loop_lag_s_p99": _worst(r.control.loop_lag_s_p99 or 0.0 for r in repetitions),
        "telemetry_cpu_share": _worst(
            cpu_s / (r.jct_s or 1.0) for r in repetitions for cpu_s in r.telemetry_cpu_s.values()
        ),
    }


def _links(run: StoredRun) -> Iterator[str]:
    for host, error in _link_rate_errors(run).items():
        if abs(error) > LINK_TOLERANCE:
            yield problem(
                "link rate off",
                host,
                f"a measured ceiling {error * 100:+.1f} % from the nominal payload rate",
                f"within {percent(LINK_TOLERANCE, 0)}",
                "the machine cannot carry this rate, or shaping failed: raise the scale divisor or use "
                "fewer hosts",
            )
    for unmeasured in run.serving_hosts:
        if run.metadata.repetitions and unmeasured.name not in run.metadata.ceilings:
            yield problem(
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
        yield problem(
            "control plane is the bottleneck",
            where(repetition),
            f"routing decisions took {percent(control.decision_s_total / jct_s)} of the JCT",
            f"at most {percent(DECISION_SHARE, 0)}",
            "raise the time dilation",
        )
    if control.cpu_s / jct_s > CONTROL_CPU_SHARE:
        yield problem(
            "control plane is the bottleneck",
            where(repetition),
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
            yield problem(
                "control plane weighs on TTFT",
                name,
                f"{percent(control_s / ttft_s)} of mean TTFT spent on control messages",
                f"at most {percent(CONTROL_TTFT_SHARE, 0)}",
                "raise the time dilation",
            )


def _cpu(run: StoredRun, repetitions: list[Repetition]) -> Iterator[str]:
    busy = [(*_cpu_of(run, repetition), where(repetition)) for repetition in repetitions]
    over = [load for load in busy if load[0] > CPU_MEAN or load[1] > CPU_SATURATED_SHARE]
    if over:
        mean, saturated, worst = max(over)
        found = f"{percent(mean, 0)} busy on average, saturated in {percent(saturated, 0)} of the samples"
        yield problem(
            "CPU is the bottleneck",
            f"{len(over)} of {len(busy)} repetitions, worst in {worst}",
            found,
            f"at most {percent(CPU_MEAN, 0)} on average and {percent(CPU_SATURATED_SHARE, 0)} of the samples",
            "raise the scale divisor, use fewer hosts, or stop what else runs on the machine",
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


def _link_rate_errors(run: StoredRun) -> dict[str, float]:
    """Measured ceiling over the nominal link's payload share, minus 1, for hosts whose link is shaped."""
    ceilings = run.metadata.ceilings
    return {
        host.name: ceilings[host.name].storage_read_bytes_per_s * 8 / (nominal * 1e9 * PAYLOAD_SHARE) - 1
        for host in run.serving_hosts
        if (nominal := host.storage_nic_nominal_gbit_per_s) and host.name in ceilings
    }


def _cpu_of(run: StoredRun, repetition: Repetition) -> tuple[float, float]:
    """Mean busy fraction and share of saturated samples of the busiest machine, (0, 0) without samples."""
    samples = of_repetition(run.host_samples, repetition.repetition, repetition.policy)
    samples = samples[samples["at_ns"].between(0, (repetition.jct_s or 0.0) * 1e9)]
    by_host = [group["cpu_busy_fraction"].to_numpy(dtype=np.float64) for _, group in samples.groupby("host")]
    return max(
        ((float(busy.mean()), float((busy > CPU_SATURATED).mean())) for busy in by_host), default=(0.0, 0.0)
    )


def _worst(values: Iterable[float]) -> float | None:
    return max(values, default=None)
