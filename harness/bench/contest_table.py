"""What ``dualpath bench transport`` and ``storage`` print for people, in at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from harness.bench.contest import Contest


def print_contests(cases: Iterable[tuple[str, Contest]], out: Console) -> None:
    """Each case: what was measured, and a line a tool."""
    for what, contest in cases:
        out.print(f"\n{what}")
        out.print(_table(contest))
    out.print(
        "\nmedians over rounds, CPU of all processes; ratio: the first tool's bandwidth over\n"
        "this one's, the median of the rounds' own ratios"
    )


def _table(contest: Contest) -> Table:
    table = Table("tool", box=None)
    for column in ("GB/s", "operations/s", "p50 ms", "p99 ms", "CPU s/GB", "ratio"):
        table.add_column(column, justify="right")
    first = next(iter(contest.rounds))
    for tool in contest.rounds:
        result = contest.median(tool)
        table.add_row(
            tool,
            f"{result.bytes_per_s / 1e9:.3f}",
            _shown(result.operations_per_s, "{:.0f}"),
            _shown(result.latency_s_p50, "{:.2f}", 1e3),
            _shown(result.latency_s_p99, "{:.2f}", 1e3),
            _shown(result.cpu_s_per_gb, "{:.2f}"),
            "" if tool == first else f"{contest.ratio(first, tool):.2f}x",
        )
    return table


def _shown(value: float | None, form: str, factor: float = 1.0) -> str:
    return "" if value is None else form.format(value * factor)
