"""``report.md``: the facts of the HTML page without its pictures, for terminals, tickets and diffs."""

from __future__ import annotations

from collections.abc import Iterator

from reports.atomic_file import write_atomically
from reports.circumstance_tables import circumstance_tables
from reports.detail_tables import detail_tables
from reports.result_tables import result_tables
from reports.stored_run import StoredRun
from reports.summary import Summary
from reports.table import Table

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\|*_`<>[]"} | {"\n": " "})


def write_markdown(run: StoredRun, summary: Summary) -> None:
    """Write ``report.md`` into the run directory, whole or not at all."""
    write_atomically(run.directory / "report.md", document(run, summary).encode())


def document(run: StoredRun, summary: Summary) -> str:
    """The report as GitHub-flavoured Markdown."""
    title = summary.experiment or summary.run_id
    parts = [
        f"# {escaped(title)}",
        f"**{escaped(summary.verdict)}**",
        escaped(str(run.metadata.experiment.get("description", ""))),
        "Valid: " + ("yes" if summary.valid else f"**no**, {len(summary.problems)} problem(s)"),
        *listed("Problems", summary.problems),
        *listed("Warnings", summary.warnings),
        *_section("Results", result_tables(run, summary)),
        *_section("Circumstances", circumstance_tables(run, summary)),
        *_section("Details", detail_tables(run)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, tables: list[Table]) -> Iterator[str]:
    yield f"## {title}"
    for table in tables:
        if table.rows:
            yield f"### {escaped(table.title)}"
            yield table_of(table)
            yield escaped(table.note)


def listed(title: str, lines: list[str], level: int = 2) -> Iterator[str]:
    """A heading of that level and a list, or nothing."""
    if lines:
        yield f"{'#' * level} {title}"
        yield "\n".join(f"- {escaped(line)}" for line in lines)


def table_of(table: Table) -> str:
    """Its columns and rows, without title and note."""
    rules = ["---:" if table.holds_figures(index) else "---" for index in range(len(table.columns))]
    rows = [[escaped(cell) for cell in row] for row in (table.columns, *table.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rules, *rows[1:]))


def escaped(content: str) -> str:
    """Plain text, whatever it holds."""
    return content.translate(_SPECIAL)
