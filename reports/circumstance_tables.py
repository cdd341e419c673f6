"""Tables of what the figures depend on: trace, scale, profile, hosts, emulation, the scheduler's limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from reports.attempts import attempt_table
from reports.calibration import calibrated, calibration_text
from reports.ceilings import payload_rate
from reports.metadata import Limits
from reports.stored_run import StoredRun
from reports.summary import Summary
from reports.table import Table, flat
from reports.units import ABSENT, number, percent, rate, seconds, size


def circumstance_tables(run: StoredRun, summary: Summary) -> list[Table]:
    """What the figures depend on: trace, scale, profile, hosts, emulation."""
    return [
        _trace(run),
        _emulation(run, summary),
        attempt_table(run.metadata),
        _scale(run),
        _profile(run),
        _hosts(run),
        _limits(run),
        _facts(run),
    ]


def _trace(run: StoredRun) -> Table:
    trace = run.metadata.trace
    gaps = [
        [key, str(value)] for key, value in flat(run.metadata.experiment) if "gap" in key.rsplit(".", 1)[-1]
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
        *([["calibration", calibration_text(metadata.calibration)]] if metadata.calibration else []),
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
        rows.append(
            [
                host.name,
                host.role,
                str(host.engines),
                host.storage_nic or ABSENT,
                rate(nominal),
                rate(nominal * divisor if nominal else None),
                payload_rate(ceiling) if ceiling else ABSENT,
                calibrated(run.metadata, host),
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
        "ceiling of the calibration (by how much the run's differs)",
    ]
    if run.metadata.calibration is None:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("Hosts", columns, rows, labels=2)


def _facts(run: StoredRun) -> Table:
    """Facts by the hosts that share them: in an emulated cluster nearly all do."""
    shared: dict[tuple[str, str], list[str]] = {}
    for host in run.metadata.hosts:
        for fact, value in flat(host.facts):
            shared.setdefault((fact, str(value)), []).append(host.name)
    everyone = [host.name for host in run.metadata.hosts]
    rows = [
        [fact, value, "all" if names == everyone else ", ".join(names)]
        for (fact, value), names in shared.items()
    ]
    return Table("Software and machine", ["fact", "value", "hosts"], rows, numeric=False)


def _limits(run: StoredRun) -> Table:
    """Limits by the repetitions that share them."""
    shared: dict[bytes, tuple[Limits, list[str]]] = {}
    for repetition in run.metadata.repetitions:
        key = msgspec.json.encode(repetition.limits, order="deterministic")
        shared.setdefault(key, (repetition.limits, []))[1].append(str(repetition.repetition))
    rows = [
        [
            ", ".join(repetitions),
            ", ".join(f"{host} {number(round(tokens))}" for host, tokens in limits.alpha_tokens.items()),
            number(round(limits.beta_tokens)),
            number(limits.decode_hbm_tokens),
        ]
        for limits, repetitions in shared.values()
    ]
    columns = [
        "repetitions",
        "alpha: tokens that a host reads in 3 s",
        "beta: tokens that an engine computes in 5 s",
        "KV tokens in a decode engine's HBM",
    ]
    return Table("Limits of the request scheduler", columns, rows, labels=2)
