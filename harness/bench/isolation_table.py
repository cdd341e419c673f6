"""What ``dualpath bench isolation`` prints for people, in at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from harness.bench.isolation import IsolationReport
from harness.bench.isolation_metrics import BurstTimes, Scenario
from hosts.qos import PortQos

_COLUMNS = 80
_FAST_BYTES_PER_S = 1e9
"""Links from which on rates are given in larger units."""
_TITLES: dict[Scenario, str] = {
    "collectives": "alone",
    "kv": "KV alone",
    "same_class": "KV same",
    "low_class": "KV low",
}


def print_report(report: IsolationReport, out: Console) -> None:
    """Scenarios first, then the bursts of each collective."""
    plan = report.plan
    link = report.compute_nic_bytes_per_s
    real = link >= _FAST_BYTES_PER_S
    nic = f"{link * 8 / 1e9:.0f} Gbit/s" if real else f"{link * 8 / 1e6:.1f} Mbit/s"
    rate, factor = ("GB/s", 1e-9) if real else ("MB/s", 1e-6)
    by = plan.transport.kind if plan.collectives == "transport" else plan.collectives
    out.print(
        f"{report.place}\n"
        f"{plan.hosts} hosts, {plan.model}, {plan.batch_tokens} tokens an engine\n"
        f"collectives by {by}, KV by {plan.transport.kind}\n"
        f"compute NICs of {nic} (real / {report.scale['rate_divisor']:.0f}), "
        f"{plan.rounds} rounds of {plan.seconds:g} s\n"
    )
    columns = (f"{name}\n{unit.replace('RATE', rate)}" for name, unit in _SCENARIO_COLUMNS)
    table = Table("scenario", *columns, box=None)
    for result in report.results:
        everything = _of(result.bursts, "all")
        leakage = result.isolation_leakage
        table.add_row(
            _TITLES[result.scenario],
            _shown(everything.slow_down_p50 if everything else None, "{:.2f}x"),
            _shown(everything.slow_down_p99 if everything else None, "{:.2f}x"),
            _shown(result.collectives_bytes_per_s, "{:.2f}", factor),
            _shown(result.kv_bytes_per_s, "{:.2f}", factor),
            _shown(result.kv_of_remaining, "{:.1%}"),
            _shown(leakage["collectives"], "{:.2f}"),
            _shown(leakage["kv"], "{:.2f}"),
            _shown(result.jain_fairness, "{:.2f}"),
            _shown(result.cpu_busy, "{:.0%}"),
        )
    out.print(table)
    out.print()
    _print_bursts(report, out)
    out.print(
        f"slow-down: bursts' times over the same percentile alone; {rate}: payload of all\n"
        "hosts; of rest: KV over KV alone less the collectives; leak: isolation_leakage;\n"
        "Jain: fairness of the two classes; CPU: busy share, of the busiest host"
    )
    for warning in report.warnings:
        out.print(textwrap.fill(f"warning: {warning}", _COLUMNS))


_SCENARIO_COLUMNS = (
    ("slow-", "p50"),
    ("down", "p99"),
    ("coll.", "RATE"),
    ("KV", "RATE"),
    ("KV of", "rest"),
    ("leak", "coll."),
    ("leak", "KV"),
    ("Jain", ""),
    ("CPU", ""),
)


def _print_bursts(report: IsolationReport, out: Console) -> None:
    mixed: list[Scenario] = ["same_class", "low_class"]
    by_scenario = {result.scenario: result.bursts for result in report.results}
    table = Table("collective", "bytes to\na peer", "bursts\nalone", "p50\nms", "p99\nms", box=None)
    for scenario in mixed:
        for percentile in ("p50", "p99"):
            table.add_column(f"{_TITLES[scenario].split()[-1]}\n{percentile}")
    for burst in report.collectives.bursts:
        alone = _of(by_scenario.get("collectives", []), burst.collective)
        cells = []
        for scenario in mixed:
            times = _of(by_scenario.get(scenario, []), burst.collective)
            cells += [
                _shown(times.slow_down_p50 if times else None, "{:.2f}x"),
                _shown(times.slow_down_p99 if times else None, "{:.2f}x"),
            ]
        table.add_row(
            burst.collective,
            str(burst.bytes_to_peer),
            str(alone.bursts) if alone else "",
            _shown(alone.p50 if alone else None, "{:.4g}", 1e3),
            _shown(alone.p99 if alone else None, "{:.4g}", 1e3),
            *cells,
        )
    out.print(table)
    out.print()


def print_qos(ports: Sequence[PortQos], out: Console) -> None:
    """Each port: what every source shows, then the paper's setting."""
    for port in ports:
        name = f"{port.device} port {port.port}" if port.device else port.interface
        beside = f", {port.interface}" if port.device and port.interface else ""
        out.print(f"{name} ({port.link_layer}{beside})")
        for source in port.sources:
            out.print(f"  {source.name}: {source.obstacle}" if source.obstacle else f"  {source.name}")
            for setting, value in source.found.items():
                out.print(f"    {setting} {value}")
        out.print("  paper (section 5, appendix A.1)")
        for setting, value in port.paper.items():
            out.print(f"    {setting} {value}")
    if not any(port.device for port in ports):
        out.print("no RDMA device on this host")


def _of(bursts: Sequence[BurstTimes], collective: str) -> BurstTimes | None:
    return next((times for times in bursts if times.collective == collective), None)


def _shown(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)
