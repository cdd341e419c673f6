"""``report.html``: one page that needs nothing from anywhere, for somebody who judges hardware."""

from __future__ import annotations

from importlib import resources
from statistics import fmean
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reports.atomic_file import write_atomically
from reports.charts import charts
from reports.plot_style import Chart
from reports.statistics import Speedup
from reports.stored_run import StoredRun
from reports.summary import Summary
from reports.tables import circumstance_tables, detail_tables, result_tables
from reports.units import ABSENT, seconds


class Figure(NamedTuple):
    """One of the page's headline figures."""

    label: str
    value: str
    detail: str


class Interval(NamedTuple):
    """The speedup on a line, positions in percent of its width; bounds absent with one repetition."""

    value: float
    low: float | None
    high: float | None
    one: float
    bound: float | None
    bound_text: str


def write_html(run: StoredRun, summary: Summary) -> None:
    """Write ``report.html`` into the run directory, whole or not at all."""
    write_atomically(run.directory / "report.html", page(run, summary).encode())


def page(run: StoredRun, summary: Summary) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = charts(run, summary)
    return environment.get_template("report.html.j2").render(
        run=run.metadata,
        summary=summary,
        headlines=headlines(summary),
        interval=speedup_interval(summary),
        charts={chart.key: (chart, _embedded(chart)) for chart in drawn},
        results=result_tables(run, summary),
        circumstances=circumstance_tables(run, summary),
        details=detail_tables(run),
        plotly=Markup(_plotly() if drawn else ""),
    )


def headlines(summary: Summary) -> list[Figure]:
    """Speedup, both JCTs, and how busy the storage NICs were, as far as the run has them."""
    comparison = summary.comparison
    if comparison is None:
        return []
    found = comparison.speedup
    detail = "no interval: fewer than two repetitions"
    if found is None:
        detail = "no complete repetitions of both policies"
    elif found.ci_low is not None and found.ci_high is not None:
        detail = f"95 % interval {found.ci_low:.2f} – {found.ci_high:.2f}"
        detail += "" if comparison.significant else ": no significant difference"
    figures = [Figure("Speedup (JCT)", f"{found.value:.2f}x" if found else ABSENT, detail)]
    for name in (comparison.baseline, comparison.contender):
        metrics = summary.policies[name]
        mean_s = fmean(metrics.jct_s) if metrics.jct_s else None
        real_s = fmean(metrics.jct_real_s) if metrics.jct_real_s else None
        figures.append(
            Figure(f"JCT, {name}", seconds(mean_s), f"emulated; {seconds(real_s)} on the real hardware")
        )
    for name in (comparison.baseline, comparison.contender):
        roles = {
            role: [
                nic.busy_utilization
                for nic in summary.policies[name].storage_nic.values()
                if nic.role == role and nic.busy_utilization is not None
            ]
            for role in ("prefill", "decode")
        }
        shown = " / ".join(f"{fmean(uses) * 100:.0f}" if uses else ABSENT for uses in roles.values()) + " %"
        figures.append(
            Figure(f"SNICs busy, {name}", shown, "prefill / decode hosts, of their measured ceiling")
        )
    return figures


def speedup_interval(summary: Summary) -> Interval | None:
    """Where speedup, interval, 1 and the storage bandwidth's ratio lie on one line."""
    found: Speedup | None = summary.comparison.speedup if summary.comparison else None
    if found is None:
        return None
    bound = summary.storage_bandwidth_ratio
    marks = [1.0, found.value, found.ci_low or 1.0, found.ci_high or 1.0, bound or 1.0]
    low, high = min(marks), max(marks)
    margin = max(high - low, 0.1) * 0.1

    def position(value: float | None) -> float | None:
        if value is None:
            return None
        return round(100 * (value - low + margin) / (high - low + 2 * margin), 2)

    return Interval(
        value=position(found.value) or 0.0,
        low=position(found.ci_low),
        high=position(found.ci_high),
        one=position(1.0) or 0.0,
        bound=position(bound),
        bound_text=f"{bound:.2f}x" if bound else "",
    )


def _embedded(chart: Chart) -> Markup:
    # Plotly escapes what could end the script element in its JSON.
    return Markup(
        chart.figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"chart-{chart.key}",
            config={"displaylogo": False, "responsive": True, "displayModeBar": False},
        )
    )


def _plotly() -> str:
    return resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")
