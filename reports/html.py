"""``report.html``: one page that needs nothing from anywhere, for somebody who judges hardware."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reports.atomic_file import write_atomically
from reports.charts import charts
from reports.circumstance_tables import circumstance_tables
from reports.detail_tables import detail_tables
from reports.headlines import headlines, speedup_interval
from reports.plot_style import Chart
from reports.result_tables import result_tables
from reports.stored_run import StoredRun
from reports.summary import Summary


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
