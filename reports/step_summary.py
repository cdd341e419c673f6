"""A run on half a page of Markdown, for what a CI shows of its job; ``report.md`` has the rest."""

from __future__ import annotations

from pathlib import Path

from reports.markdown import escaped, listed, table_of
from reports.paper_tables import served_table
from reports.problem import Problem
from reports.result_tables import policy_table
from reports.summary import Summary
from reports.verdict import verdict

MOST_LINES = 20
"""Of problems, and of warnings: CIs limit what a page may hold."""


def failed_document(name: str, message: str) -> str:
    """Of an experiment's run that left no records."""
    return f"{_title(name)}\n\n{_strong(f'Failed: {message}')}\n"


def document(
    summary: Summary, directory: Path, *, regression: Problem | None = None, error: str | None = None
) -> str:
    """Of a run in ``directory``, complete or not; ``error`` is what ended the command, if anything did."""
    bounds = [f"{name}: {bound}" for name, bound in summary.bottlenecks.items()]
    parts = [
        _title(summary.experiment or summary.run_id),
        _strong(f"Failed: {error}") if error else "",
        _strong(regression.line) if regression else "",
        _strong(verdict(summary.finding, (), {}, summary.problems)),
        table_of(served_table(summary.online) if summary.online else policy_table(summary, ("mean",))),
        *listed("Bottlenecks", bounds, level=3),
        *listed("Problems", _shortened(summary.problems), level=3),
        *listed("Warnings", _shortened(summary.warnings), level=3),
        f"Report: {escaped(str(directory / 'report.html'))}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(name: str) -> str:
    return f"## {escaped(name)}"


def _strong(text: str) -> str:
    return f"**{escaped(text)}**"


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], f"and {more} more, in the report"] if more > 0 else lines
