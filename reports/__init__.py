"""From a stored run to its metrics, verdict and reports. Sees records only."""

from __future__ import annotations

from pathlib import Path

from reports.html import write_html
from reports.markdown import write_markdown
from reports.metadata import ReportError
from reports.stored_run import StoredRun
from reports.summary import Summary, analyse, write_summary

__all__ = ["ReportError", "StoredRun", "Summary", "analyse", "render"]


def render(run_dir: str | Path) -> Summary:
    """Analyse a run, complete or partial; write summary.json, report.html and report.md beside its records.

    Raises :class:`ReportError` if the directory is not a readable run.
    """
    run = StoredRun.load(run_dir)
    summary = analyse(run)
    write_summary(run, summary)
    write_html(run, summary)
    write_markdown(run, summary)
    return summary
