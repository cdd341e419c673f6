"""The report's tables, once for HTML and Markdown: what was found, and under which circumstances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from reports.definitions import DEFINITIONS
from reports.metrics import BREAKDOWN, PolicyMetrics
from reports.stored_run import StoredRun
from reports.summary import Summary
from reports.units import ABSENT, number, percent, rate, seconds, size


class Table(NamedTuple):
    """Plain text cells; the first ``labels`` columns name the row, the others are figures if ``numeric``."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    numeric: bool = True
    labels: int = 1


def result_tables(run: StoredRun, summary: Summary) -> list[Table]:
    """What was measured, per policy, per storage NIC and per pair of policies."""
    return [_policies(run, summary), _breakdown(summary), _storage_nics(summary), _pairs(summary)]


def circumstance_tables(run: StoredRun, summary: Summary) -> list[Table]:
    """What the figures depend on: trace, scale, profile, hosts, emulation."""
    return [
        _trace(run),
        _emulation(run, summary),
        _scale(run),
        _profile(run),
        _hosts(run),
        _facts(run),
    ]


def detail_tables(run: StoredRun) -> list[Table]:
    """Every repetition, every definition, the experiment as resolved."""
    return [
        _repetitions(run),
        Table(
            "Definitions of all metrics",
            ["metric", "unit", "definition"],
            [list(definition) for definition in DEFINITIONS],
            numeric=False,
        ),
        Table(
            "Experiment as resolved",
            ["key", "value"],
            [[key, str(value)] for key, value in _flat(run.metadata.experiment)],
            numeric=False,
        ),
    ]


def _policies(run: StoredRun, summary: Summary) -> Table:
    divisor = run.metadata.scale.bytes_divisor

    def over(
        read: Callable[[PolicyMetrics], Sequence[float]], show: Callable[[float | None], str]
    ) -> list[str]:
        means = [read(metrics) for metrics in summary.policies.values()]
        return [show(fmean(values) if values else None) for values in means]

    def each(show: Callable[[PolicyMetrics], str]) -> list[str]:
        return [show(metrics) for metrics in summary.policies.values()]

    rows = [
        ["JCT, emulated (mean)", *over(lambda m: m.jct_s, seconds)],
        ["JCT, real hardware", *over(lambda m: m.jct_real_s, seconds)],
        [
            "repetitions (coefficient of variation)",
            *each(lambda m: f"{len(m.jct_s)} ({percent(m.jct_cv, 2)})"),
        ],
        ["turns/s, emulated", *over(lambda m: m.turns_per_s, number)],
        ["turns/s, real hardware", *over(lambda m: m.turns_per_real_s, number)],
    ]
    for name in ("mean", "p50", "p90", "p99"):
        emulated = [metrics.ttft_s.get(name) for metrics in summary.policies.values()]
        real = [metrics.ttft_real_s.get(name) for metrics in summary.policies.values()]
        rows.append([f"TTFT {name}, emulated", *map(seconds, emulated)])
        rows.append([f"TTFT {name}, real hardware", *map(seconds, real)])
    rows += [
        ["session completion p50, emulated", *each(lambda m: seconds(m.session_completion_s.get("p50")))],
        ["bytes read, emulated", *each(lambda m: size(m.bytes_read))],
        ["bytes read, real hardware", *each(lambda m: size(m.bytes_read * divisor))],
        ["bytes read − expected from the trace", *each(lambda m: f"{m.bytes_read - m.bytes_expected:+,} B")],
        ["bytes persisted, emulated", *each(lambda m: size(m.bytes_written))],
        ["bytes between hosts, emulated", *each(lambda m: size(m.bytes_transferred))],
        ["KV blocks checked / wrong", *each(lambda m: f"{m.verified_blocks:,} / {m.mismatched_blocks:,}")],
        ["prefill engines busy", *each(lambda m: percent(m.prefill_engine_busy))],
        ["busy window / JCT", *each(lambda m: percent(m.busy_window_share))],
    ]
    return Table(
        "Policies",
        ["metric", *summary.policies],
        rows,
        "Emulated is what was measured here; real hardware is the same figure carried back by the scale "
        "model.",
    )


def _breakdown(summary: Summary) -> Table:
    rows = [
        [
            name,
            *(seconds(metrics.ttft_breakdown_s.get(part)) for part in BREAKDOWN),
            seconds(metrics.ttft_s.get("mean")),
        ]
        for name, metrics in summary.policies.items()
    ]
    return Table(
        "TTFT breakdown (mean, emulated)",
        ["policy", *(part.replace("_", " ") for part in BREAKDOWN), "TTFT"],
        rows,
    )


def _storage_nics(summary: Summary) -> Table:
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
        for policy, metrics in summary.policies.items()
        for host, nic in metrics.storage_nic.items()
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
    return Table("Storage NICs", columns, rows, "Utilization is payload over the payload ceiling.", labels=3)


def _pairs(summary: Summary) -> Table:
    rows = []
    for pair in summary.pairwise:
        found = pair.speedup
        known = found is not None and found.ci_low is not None and found.ci_high is not None
        interval = f"{found.ci_low:.3f} – {found.ci_high:.3f}" if found and known else ABSENT
        rows.append(
            [
                pair.baseline,
                pair.contender,
                f"{found.value:.3f}x" if found else ABSENT,
                interval,
                ("yes" if pair.significant else "no") if known else "unknown",
            ]
        )
    columns = ["baseline", "contender", "speedup", "95 % interval", "significant"]
    return Table("All pairs of policies", columns, rows, labels=2)


def _trace(run: StoredRun) -> Table:
    trace = run.metadata.trace
    gaps = [
        [key, str(value)] for key, value in _flat(run.metadata.experiment) if "gap" in key.rsplit(".", 1)[-1]
    ]
    rows = [
        ["sha256", trace.sha256],
        ["format", trace.format],
        ["source", trace.source],
        ["sessions / turns", f"{trace.sessions:,} / {trace.turns:,}"],
        ["hit rate (token-weighted, first turns excluded)", percent(trace.hit_rate, 2)],
        ["filters", "; ".join(trace.filters) or "none"],
        *gaps,
    ]
    return Table("Trace (as replayed)", ["", "value"], rows, numeric=False)


def _emulation(run: StoredRun, summary: Summary) -> Table:
    metadata, emulation = run.metadata, run.metadata.emulation
    checks = [
        [name.replace("_s_", "_").replace("_", " "), _check_text(name, value)]
        for name, value in summary.emulation.checks.items()
    ]
    rows = [
        ["run", f"{metadata.run_id}, started {metadata.started_at}"],
        ["dualpath version", metadata.dualpath_version],
        ["status when analysed", metadata.status],
        ["cluster", emulation.mode.replace("_", " ")],
        ["storage", f"{emulation.storage}, cache: {emulation.storage_cache or 'unknown'}"],
        ["transport", emulation.transport],
        ["remarks", "; ".join(emulation.labels) or "none"],
        *([f"self-check: {name}", text] for name, text in checks),
    ]
    return Table(
        "Run and emulation", ["", "value"], rows, "Self-checks show the worst repetition.", numeric=False
    )


def _check_text(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            ", ".join(f"{host} {float(error) * 100:+.1f} %" for host, error in value.items())
            or "not applicable"
        )
    return seconds(value) if "_s_" in name else percent(value)


def _scale(run: StoredRun) -> Table:
    scale, model = run.metadata.scale, run.metadata.model
    rows = [
        ["bytes divisor", number(scale.bytes_divisor), "emulated bytes = real / divisor"],
        ["time dilation", number(scale.time_dilation), "emulated time = real x dilation"],
        [
            "rate divisor",
            number(scale.rate_divisor),
            "emulated rate = real / divisor (bytes divisor x dilation)",
        ],
        ["model", model.name, f"{model.layers} layers, blocks of {model.block_tokens} tokens"],
        ["KV bytes a token, real", size(model.kv_bytes_per_token), "all layers"],
        ["Layer Block, as moved", size(model.layer_block_bytes), "emulated bytes, one layer of one block"],
    ]
    return Table("Scale and model", ["", "value", "meaning"], rows, numeric=False)


def _profile(run: StoredRun) -> Table:
    rows = [
        [
            name,
            f"{number(entry.value) if isinstance(entry.value, int | float) else entry.value} {entry.unit}",
            entry.source,
        ]
        for name, entry in run.metadata.profile.items()
    ]
    return Table("Hardware profile", ["figure", "value", "source"], rows, numeric=False)


def _hosts(run: StoredRun) -> Table:
    divisor = run.metadata.scale.rate_divisor
    rows = []
    for host in run.metadata.hosts:
        nominal = host.storage_nic_nominal_gbit_per_s
        ceiling = run.metadata.ceilings.get(host.name)
        measured = ceiling.storage_read_bytes_per_s * 8 / 1e9 if ceiling else None
        rows.append(
            [
                host.name,
                host.role,
                str(host.engines),
                host.storage_nic or ABSENT,
                rate(nominal),
                rate(nominal * divisor if nominal else None),
                rate(measured),
            ]
        )
    columns = [
        "host",
        "role",
        "engines",
        "storage NIC",
        "nominal, emulated (assumed)",
        "nominal, real hardware (assumed)",
        "ceiling, emulated (measured payload)",
    ]
    return Table("Hosts", columns, rows, labels=2)


def _facts(run: StoredRun) -> Table:
    """Facts by the hosts that share them: in an emulated cluster nearly all do."""
    shared: dict[tuple[str, str], list[str]] = {}
    for host in run.metadata.hosts:
        for fact, value in _flat(host.facts):
            shared.setdefault((fact, str(value)), []).append(host.name)
    everyone = [host.name for host in run.metadata.hosts]
    rows = [
        [fact, value, "all" if names == everyone else ", ".join(names)]
        for (fact, value), names in shared.items()
    ]
    return Table("Software and machine", ["fact", "value", "hosts"], rows, numeric=False)


def _repetitions(run: StoredRun) -> Table:
    rows = [
        [
            str(r.repetition),
            r.policy,
            seconds(r.jct_s),
            f"{r.turns:,}",
            f"{r.read_bytes:,}",
            f"{r.written_bytes:,}",
            f"{r.verified_blocks:,} / {r.mismatched_blocks:,}",
            seconds(r.control.message_rtt_s_p50),
            seconds(r.control.message_rtt_s_p99),
            seconds(r.control.loop_lag_s_p99),
            seconds(r.control.cpu_s),
            "yes" if r.complete else "no",
        ]
        for r in run.metadata.repetitions
    ]
    columns = [
        "repetition",
        "policy",
        "JCT",
        "turns",
        "bytes read",
        "bytes persisted",
        "blocks checked / wrong",
        "message RTT p50",
        "message RTT p99",
        "loop lag p99",
        "control CPU",
        "complete",
    ]
    return Table("Repetitions (emulated, in the order run)", columns, rows, labels=2)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
