"""Was the emulation the bottleneck? Links, CPU, control plane and telemetry against what they may cost.

A run that fails here measured the machine that emulates, not the policies. :mod:`reports.gates` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from reports.counter_check import PAYLOAD_SHARE
from reports.evidence import Evidence
from reports.metadata import Repetition
from reports.problem import Problem, where
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


def no_nominal_rate(evidence: Evidence) -> str | None:
    """Why measured ceilings cannot be held against nominal rates."""
    return None if _link_rate_errors(evidence.run) else "no storage NIC has a nominal rate and a ceiling"


def no_repetition_begun(evidence: Evidence) -> str | None:
    """Why nothing need have been measured before."""
    return None if evidence.run.metadata.repetitions else "no repetition was begun"


def cpus_unsampled(evidence: Evidence) -> str | None:
    """Why CPUs cannot be judged."""
    return "no host was sampled" if evidence.run.host_samples.empty else None


def link_rate(evidence: Evidence) -> Iterator[Problem]:
    """Links carry what they are made for."""
    for host, error in _link_rate_errors(evidence.run).items():
        if abs(error) > LINK_TOLERANCE:
            yield Problem(
                "link rate off",
                host,
                f"a measured ceiling {error * 100:+.1f} % from the nominal payload rate",
                f"within {percent(LINK_TOLERANCE, 0)}",
                "the machine cannot carry this rate, or shaping failed: raise the scale divisor or use "
                "fewer hosts",
            )


def ceiling_measured(evidence: Evidence) -> Iterator[Problem]:
    """Every storage path has a ceiling."""
    for host in evidence.run.serving_hosts:
        if host.name not in evidence.run.metadata.ceilings:
            yield Problem(
                "ceiling not measured",
                host.name,
                "no storage ceiling",
                "one measured just before the repetitions",
                "repeat the run with calibration",
            )


def decision_time(evidence: Evidence) -> Iterator[Problem]:
    """Deciding who reads is a small part of a job."""
    for repetition in evidence.repetitions:
        share = repetition.control.decision_s_total / (repetition.jct_s or 1.0)
        if share > DECISION_SHARE:
            yield Problem(
                "control plane is the bottleneck",
                where(repetition),
                f"routing decisions took {percent(share)} of the JCT",
                f"at most {percent(DECISION_SHARE, 0)}",
                "raise the time dilation",
            )


def control_cpu(evidence: Evidence) -> Iterator[Problem]:
    """The control node has CPU time left."""
    for repetition in evidence.repetitions:
        share = repetition.control.cpu_s / (repetition.jct_s or 1.0)
        if share > CONTROL_CPU_SHARE:
            yield Problem(
                "control plane is the bottleneck",
                where(repetition),
                f"the control node used {percent(share, 0)} of a core",
                f"at most {percent(CONTROL_CPU_SHARE, 0)}",
                "raise the time dilation or use fewer sessions",
            )


def control_in_ttft(evidence: Evidence) -> Iterator[Problem]:
    """Control messages are a small part of the compared policies' TTFT."""
    return _control_in_ttft(evidence, compared=True)


def cpu(evidence: Evidence) -> Iterator[Problem]:
    """No machine's CPUs bounded what was measured."""
    run = evidence.run
    busy = [(*_cpu_of(run, repetition), where(repetition)) for repetition in evidence.repetitions]
    over = [load for load in busy if load[0] > CPU_MEAN or load[1] > CPU_SATURATED_SHARE]
    if over:
        mean, saturated, worst = max(over)
        found = f"{percent(mean, 0)} busy on average, saturated in {percent(saturated, 0)} of the samples"
        yield Problem(
            "CPU is the bottleneck",
            f"{len(over)} of {len(busy)} repetitions, worst in {worst}",
            found,
            f"at most {percent(CPU_MEAN, 0)} on average and {percent(CPU_SATURATED_SHARE, 0)} of the samples",
            "raise the scale divisor, use fewer hosts, or stop what else runs on the machine",
        )


def emulation_warnings(evidence: Evidence) -> Iterator[str]:
    """Where the emulation cost more than usual, and bounded nothing that is compared."""
    yield from (problem.line for problem in _control_in_ttft(evidence, compared=False))
    yield from _telemetry(evidence)


def self_checks(evidence: Evidence) -> dict[str, float | dict[str, float] | None]:
    """The worst repetition's figures; None where no repetition is complete."""
    run, repetitions = evidence.run, evidence.repetitions
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


def _control_in_ttft(evidence: Evidence, *, compared: bool) -> Iterator[Problem]:
    """Fatal for the compared pair; elsewhere (oracle's turns are short) worth a word."""
    pair = (evidence.run.metadata.baseline, evidence.run.metadata.contender)
    for name, metrics in evidence.policies.items():
        ttft_s = metrics.ttft_s.get("mean")
        control_s = metrics.ttft_breakdown_s.get("control", 0.0)
        if (name in pair) is compared and ttft_s and control_s / ttft_s > CONTROL_TTFT_SHARE:
            yield Problem(
                "control plane weighs on TTFT",
                name,
                f"{percent(control_s / ttft_s)} of mean TTFT spent on control messages",
                f"at most {percent(CONTROL_TTFT_SHARE, 0)}",
                "raise the time dilation",
            )


def _telemetry(evidence: Evidence) -> Iterator[str]:
    costs = [
        (cost_s / (r.jct_s or 1.0), host)
        for r in evidence.repetitions
        for host, cost_s in r.telemetry_cpu_s.items()
    ]
    share, host = max(costs, default=(0.0, ""))
    if share > TELEMETRY_CPU_SHARE:
        usual = percent(TELEMETRY_CPU_SHARE, 0)
        yield f"telemetry used {percent(share)} of a core on {host}; at most {usual} is usual"
    keys = ["repetition", "policy", "host", "nic"]
    intervals_ns = evidence.run.nic_samples.sort_values("at_ns").groupby(keys)["at_ns"].diff().dropna()
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
