"""Tables of what was measured: by policy, by part of TTFT, by storage NIC and by pair of policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from reports.gpu_table import gpu_table
from reports.latency import PARTS, Distribution
from reports.metrics import PolicyMetrics
from reports.nic_tables import class_table, error_table
from reports.paper_tables import ablation_table, balance_table, point_table, point_ttft_table, served_table
from reports.stored_run import StoredRun
from reports.summary import Summary
from reports.table import Table
from reports.units import ABSENT, interval, number, percent, rate, seconds, size


def result_tables(run: StoredRun, summary: Summary) -> list[Table]:
    """What was found; an online run is told by its points, an offline one by its policies."""
    if summary.online:
        told = [served_table(summary.online), point_table(summary.online), point_ttft_table(summary.online)]
    else:
        told = [
            policy_table(summary),
            _ttft_parts(summary),
            ablation_table(run, summary),
            balance_table(summary),
        ]
    nics = [_storage_nics(summary), class_table(run, summary.policies), error_table(run)]
    return [*told, _amounts(run, summary), *nics, gpu_table(run, summary.policies), _pairs(summary)]


def policy_table(summary: Summary, figures: Sequence[str] = ("mean", "p50", "p90", "p99")) -> Table:
    """JCT and latencies by policy; of latencies these ``figures``."""
    policies = summary.policies.values()

    def each(show: Callable[[PolicyMetrics], str]) -> list[str]:
        return [show(metrics) for metrics in policies]

    def mean(values: list[float]) -> float | None:
        return fmean(values) if values else None

    rows = [
        ["JCT, emulated (mean)", *each(lambda m: seconds(mean(m.jct_s)))],
        ["JCT, real hardware", *each(lambda m: seconds(mean(m.jct_real_s)))],
        [
            "repetitions (coefficient of variation)",
            *each(lambda m: f"{len(m.jct_s)} ({percent(m.jct_cv, 2)})"),
        ],
        ["turns/s, emulated", *each(lambda m: number(mean(m.turns_per_s)))],
        ["turns/s, real hardware", *each(lambda m: number(mean(m.turns_per_real_s)))],
    ]
    measures: list[tuple[str, Callable[[PolicyMetrics], tuple[Distribution, Distribution]]]] = [
        ("JCT of an agent", lambda m: (m.agent_jct_s, m.agent_jct_real_s)),
        ("TTFT", lambda m: (m.ttft_s, m.ttft_real_s)),
        ("TTST", lambda m: (m.ttst_s, m.ttst_real_s)),
        ("TPOT", lambda m: (m.tpot_s, m.tpot_real_s)),
    ]
    for label, read in measures:
        for name in figures:
            pairs = [read(metrics) for metrics in policies]
            cells = [
                ABSENT if emulated[name] is None else f"{seconds(emulated[name])} / {seconds(real[name])}"
                for emulated, real in pairs
            ]
            rows.append([f"{label} {name}, emulated / real hardware", *cells])
    return Table(
        "Policies",
        ["metric", *summary.policies],
        rows,
        "Emulated is what was measured here; real hardware is the same figure carried back by the scale "
        "model.",
    )


def _ttft_parts(summary: Summary) -> Table:
    """The paper's parts; where one has several finer ones, these are listed below it."""
    policies = summary.policies.values()
    rows = []
    for part, inside in PARTS.items():
        rows.append([_part(part), *(seconds(m.ttft_parts_s.get(part)) for m in policies)])
        if len(inside) > 1:
            rows += [
                [f"– {_part(i)}", *(seconds(m.ttft_breakdown_s.get(i)) for m in policies)] for i in inside
            ]
    rows.append(["TTFT", *(seconds(m.ttft_s["mean"]) for m in policies)])
    return Table(
        "Where the time to first token goes (mean, emulated)",
        ["part", *summary.policies],
        rows,
        "Scheduling, allocation, KV read and prefill are the paper's parts; control messages are the "
        "testbed's.",
    )


def _part(name: str) -> str:
    return {"kv_read": "KV read", "hbm_wait": "HBM wait", "control": "control messages"}.get(
        name, name.replace("_", " ")
    )


def _amounts(run: StoredRun, summary: Summary) -> Table:
    divisor = run.metadata.scale.bytes_divisor

    def each(show: Callable[[PolicyMetrics], str]) -> list[str]:
        return [show(metrics) for metrics in summary.policies.values()]

    rows = [
        ["bytes read, emulated", *each(lambda m: size(m.bytes_read))],
        ["bytes read, real hardware", *each(lambda m: size(m.bytes_read * divisor))],
        ["bytes read − expected from the trace", *each(lambda m: f"{m.bytes_read - m.bytes_expected:+,} B")],
        ["bytes persisted, emulated", *each(lambda m: size(m.bytes_written))],
        ["bytes between hosts, emulated", *each(lambda m: size(m.bytes_transferred))],
        ["KV blocks checked / wrong", *each(lambda m: f"{m.verified_blocks:,} / {m.mismatched_blocks:,}")],
    ]
    if summary.online:
        return Table("Bytes moved, all points", ["metric", *summary.policies], rows)
    rows += [
        ["prefill engines busy, active phase", *each(lambda m: percent(m.prefill_engine_busy))],
        ["busy window / JCT", *each(lambda m: percent(m.busy_window_share))],
    ]
    return Table("Bytes moved and engines busy", ["metric", *summary.policies], rows)


def _storage_nics(summary: Summary) -> Table:
    """Offline over all repetitions, online at each policy's highest steady rate, where it has one."""
    nics = {policy: metrics.storage_nic for policy, metrics in summary.policies.items()}
    note = "Utilization is payload over the payload ceiling."
    if summary.online:
        steady = {name: p for name, s in summary.online.policies.items() if (p := s.highest_steady)}
        nics = {name: point.storage_nic for name, point in steady.items()}
        rates = ", ".join(f"{name} {number(point.agents_per_s)}" for name, point in steady.items())
        note = f"At the highest steady rate of each policy (agents/s: {rates}). {note}"
    rows = [
        [
            policy,
            host,
            nic.role,
            size(nic.read_bytes),
            size(nic.written_bytes),
            "yes" if nic.expected_busy else "no",
            percent(nic.busy_utilization),
            percent(nic.mean_utilization),
            rate(nic.ceiling_gbit_per_s),
            rate(nic.ceiling_real_gbit_per_s),
            percent(nic.counter_over_payload),
        ]
        for policy, by_host in nics.items()
        for host, nic in by_host.items()
    ]
    columns = [
        "policy",
        "host",
        "role",
        "read",
        "persisted",
        "should be busy",
        "utilization, busy window",
        "utilization, whole job",
        "ceiling, measured",
        "ceiling, real hardware",
        "counter / payload",
    ]
    return Table("Storage NICs", columns, rows, note, labels=3)


def _pairs(summary: Summary) -> Table:
    rows = []
    for pair in summary.pairwise:
        found = pair.speedup
        known = found is not None and found.ci_low is not None
        rows.append(
            [
                pair.baseline,
                pair.contender,
                f"{found.value:.3f}x" if found else ABSENT,
                interval(found, lambda value: f"{value:.3f}"),
                ("yes" if pair.significant else "no") if known else "unknown",
            ]
        )
    columns = ["baseline", "contender", "speedup", "95 % interval", "significant"]
    by = f"By {summary.pairwise[0].metric.words}." if summary.pairwise else ""
    return Table("All pairs of policies", columns, rows, by, labels=2)
