from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from stored_run_builder import StoredRunBuilder

from reports import StoredRun, render
from reports.circumstance_tables import circumstance_tables
from reports.detail_tables import detail_tables
from reports.html import page
from reports.result_tables import result_tables
from reports.summary import analyse
from reports.table import Table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def rendered(io_bound_run: Path) -> Path:
    render(io_bound_run)
    return io_bound_run


def without_plotly(html: str) -> str:
    """The page but for its longest script."""
    longest = max(re.findall(r"<script>.*?</script>", html, flags=re.DOTALL), key=len)
    return html.replace(longest, "")


def test_summary_keeps_its_contract(rendered: Path) -> None:
    document = json.loads((rendered / "summary.json").read_text())
    assert {
        "format_version",
        "valid",
        "problems",
        "trace",
        "scale",
        "policies",
        "comparison",
        "emulation",
    } <= set(document)
    assert {"sha256", "sessions", "turns", "hit_rate"} <= set(document["trace"])
    assert {"baseline", "contender", "speedup"} <= set(document["comparison"])
    assert {"value", "ci_low", "ci_high"} == set(document["comparison"]["speedup"])
    for policy in ("prefill_only", "dual_path"):
        metrics = document["policies"][policy]
        assert {"jct_s", "turns_per_s", "bytes_read", "bytes_expected", "ttft_s", "storage_nic"} <= set(
            metrics
        )
        assert {"p50", "p90", "p99", "mean"} == set(metrics["ttft_s"])
        for nic in metrics["storage_nic"].values():
            assert {"bytes", "busy_utilization", "ceiling_gbit_per_s"} <= set(nic)


def test_leaves_the_three_files_and_nothing_else(tmp_path: Path) -> None:
    directory = StoredRunBuilder(sessions=2, turns=2).write(tmp_path / "run")
    before = {path.name for path in directory.iterdir()}
    render(directory)
    assert {path.name for path in directory.iterdir()} - before == {
        "summary.json",
        "report.html",
        "report.md",
    }


def test_a_failed_write_leaves_the_former_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = StoredRunBuilder(sessions=2, turns=2).write(tmp_path / "run")
    (directory / "summary.json").write_text("former")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reports.atomic_file.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        render(directory)
    assert (directory / "summary.json").read_text() == "former"
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]


def test_page_is_self_contained_and_leads_with_the_verdict(rendered: Path) -> None:
    html = without_plotly((rendered / "report.html").read_text())
    assert "default-src 'none'" in html
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import""", html)
    text = re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    assert text.index("is 1.99x faster than") < text.index("95 % interval") < text.index("Circumstances")
    for fact in ("ab" * 32, "98.75 %", "page cache", "paper, section 7", "gap_cap_s", "busy window"):
        assert fact in text, fact


def test_what_the_run_says_is_text_not_markup(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=2, turns=2)
    builder.metadata["experiment"]["description"] = "<script>alert(1)</script> | pipe"
    directory = builder.write(tmp_path / "run")
    render(directory)
    assert "<script>alert(1)" not in (directory / "report.html").read_text()
    assert "<script>" not in (directory / "report.md").read_text()


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_partial_runs_are_reported_as_such(status: str, tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=3, turns=3)
    builder.metadata |= {"status": status, "failure": "host d0: connection lost during repetition 1"}
    del builder.metadata["repetitions"][1:]
    directory = builder.write(tmp_path / "run")
    summary = render(directory)
    assert not summary.valid
    assert summary.comparison is not None
    assert summary.comparison.speedup is None
    html = without_plotly((directory / "report.html").read_text())
    assert ">incomplete<" in html
    assert "connection lost during repetition 1" in html
    assert 'id="chart-snic"' in html


def test_a_run_that_never_measured_still_renders(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=1, turns=1)
    builder.metadata |= {"status": "failed", "failure": "no host came up", "repetitions": [], "ceilings": {}}
    (tmp_path / "metadata.json").write_text(json.dumps(builder.metadata))
    summary = render(tmp_path)
    assert not summary.valid
    assert summary.policies["dual_path"].jct_s == []
    assert "no host came up" in (tmp_path / "report.md").read_text()
    assert "plotly" not in (tmp_path / "report.html").read_text().lower()


def test_markdown_tables_are_rectangular(rendered: Path) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", (rendered / "report.md").read_text(), flags=re.MULTILINE)
    assert len(blocks) >= 9
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_every_table_row_fits_its_columns(rendered: Path) -> None:
    run = StoredRun.load(rendered)
    summary = analyse(run)
    tables: list[Table] = [
        *result_tables(run, summary),
        *circumstance_tables(run, summary),
        *detail_tables(run),
    ]
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows), table.title


def test_figures_and_prose_are_told_apart() -> None:
    table = Table("t", ["policy", "rate", "bound"], [["a", "1", "by much"]], remarks=1)
    assert [table.holds_figures(column) for column in range(3)] == [False, True, False]
    assert not table._replace(numeric=False).holds_figures(1)


def test_page_grows_little_beyond_its_library(rendered: Path) -> None:
    run = StoredRun.load(rendered)
    assert len(without_plotly(page(run, analyse(run)))) < 400_000


@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: the page is not tried in a browser"
)
def test_browser_draws_every_picture_without_errors_or_requests(rendered: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    shown = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            # The browser's own services must not reach out of the machine either.
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--window-size=1400,3000",
            "--virtual-time-budget=5000",
            "--dump-dom",
            f"file://{rendered / 'report.html'}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # The page's content security policy turns every request it might make into a console line as well.
    assert not [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    charts = set(re.findall(r'<div id="chart-(\w+)"', shown.stdout))
    assert charts == {"snic", "jct", "breakdown", "ttft", "turns", "cpu"}
    assert shown.stdout.count('class="main-svg"') >= len(charts)
