"""The step summary: plain Markdown on half a page, the verdict first."""

from __future__ import annotations

import re
from pathlib import Path

from stored_run_builder import StoredRunBuilder

from reports import StoredRun, Summary, analyse
from reports.regression import regression
from reports.step_summary import MOST_LINES, document, failed_document


def analysed(builder: StoredRunBuilder, directory: Path) -> Summary:
    return analyse(StoredRun.load(builder.write(directory / "run")))


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ .*$", text, flags=re.MULTILINE)


def test_a_valid_run_fits_half_a_page(tmp_path: Path) -> None:
    text = document(analysed(StoredRunBuilder(sessions=6, turns=6), tmp_path), Path("runs/tonight"))
    assert text.startswith("## io\\_bound\\_synthetic\n\n**dual\\_path is 1.")
    assert headings(text) == ["## io\\_bound\\_synthetic", "### Bottlenecks"]
    assert "| JCT, emulated (mean) |" in text
    assert "- prefill\\_only: bounded by prefill storage NICs" in text
    assert text.endswith("\n\nReport: runs/tonight/report.html\n")
    assert len(text.splitlines()) < 30
    assert not re.search(r"<\w|\x1b", text)


def test_what_failed_comes_first(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=6, turns=6)
    builder.metadata["repetitions"][1]["mismatched_blocks"] = 1
    summary = analysed(builder, tmp_path)
    text = document(summary, tmp_path, regression=regression(summary, 9), error="host p0: lost | <b>")
    paragraphs = text.split("\n\n")
    assert paragraphs[1] == "**Failed: host p0: lost \\| \\<b\\>**"
    assert paragraphs[2].startswith("**speedup below the threshold: ")
    assert paragraphs[3].startswith("**Not a result (1 problem). Measured nevertheless: ")
    assert "### Problems\n\n- KV content is wrong: repetition 1" in text


def test_many_problems_are_counted_not_listed(tmp_path: Path) -> None:
    order = ("prefill_only", "dual_path") * MOST_LINES
    builder = StoredRunBuilder(sessions=1, turns=2, order=order)
    for repetition in builder.metadata["repetitions"]:
        repetition["mismatched_blocks"] = 1
    summary = analysed(builder, tmp_path)
    text = document(summary, tmp_path)
    assert text.count("KV content is wrong") == MOST_LINES
    assert f"- and {len(summary.problems) - MOST_LINES} more, in the report\n" in text


def test_an_online_run_shows_its_rates(tmp_path: Path) -> None:
    points = {"prefill_only": [(0.2, "steady"), (0.4, "ttft_slo")], "dual_path": [(0.36, "steady")]}
    text = document(analysed(StoredRunBuilder(sessions=3, turns=3, points=points), tmp_path), tmp_path)
    assert "| dual\\_path | 0.360 | no: serves this or more |" in text


def test_an_experiment_that_left_no_records() -> None:
    assert failed_document("a_b", "x.toml: unknown field `speed`\nfix it") == (
        "## a\\_b\n\n**Failed: x.toml: unknown field \\`speed\\` fix it**\n"
    )
