"""The report's pictures, as Plotly figures over downsampled series. Times and rates are emulated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports.comparison import Metric, metric_of
from reports.latency_charts import breakdown_chart, online_chart, ttft_chart
from reports.plot_style import (
    INK,
    Chart,
    bucket_length_s,
    colour_of,
    shown_end_s,
    shown_repetition,
    styled,
    translucent,
)
from reports.snic_chart import snic_chart
from reports.stored_run import StoredRun, of_repetition
from reports.summary import Summary


def charts(run: StoredRun, summary: Summary) -> list[Chart]:
    """All pictures that this run has data for, the most telling first."""
    shown = {
        name: repetition
        for name in summary.policies
        if (repetition := shown_repetition(run, name)) is not None
    }
    # What an online run mixes, points of different load, has no one JCT and no one distribution.
    latencies = (
        [online_chart(summary)]
        if summary.online
        else [_jct_chart(summary, metric_of(run)), ttft_chart(run, summary)]
    )
    drawn = [
        snic_chart(run, summary, shown),
        *latencies,
        breakdown_chart(summary),
        _turns_chart(run, summary, shown),
        _cpu_chart(run, summary, shown),
    ]
    return [chart for chart in drawn if chart is not None]


def _jct_chart(summary: Summary, metric: Metric) -> Chart | None:
    figure = go.Figure()
    policies = [name for name, metrics in summary.policies.items() if metric.of(metrics)]
    if not policies:
        return None
    for name in policies:
        jct_s = metric.of(summary.policies[name])
        mean_s = float(np.mean(jct_s))
        figure.add_trace(
            go.Bar(
                y=[name],
                x=[mean_s],
                orientation="h",
                marker_color=translucent(colour_of(summary, name), 0.55),
                text=[f"<b>{mean_s:.2f} s</b>"],
                textposition="inside",
                insidetextanchor="start",
                textfont={"color": INK},
                hovertemplate="mean %{x:.3f} s<extra></extra>",
                width=0.62,
            )
        )
        figure.add_trace(
            go.Scatter(
                y=[name] * len(jct_s),
                x=np.round(jct_s, 4),
                mode="markers",
                marker={"color": colour_of(summary, name), "size": 9, "line": {"color": "white", "width": 1}},
                hovertemplate="%{x:.3f} s<extra>one repetition</extra>",
            )
        )
    styled(figure, 90 + 52 * len(policies), showlegend=False, barmode="overlay")
    figure.update_layout(margin={"l": 110, "t": 10})
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text=f"{metric.words}, emulated seconds", rangemode="tozero")
    title = "Job completion time" if metric is Metric.JCT else "Job completion time of an agent, mean"
    return Chart("jct", title, "Bar: mean. Dots: the repetitions.", figure)


def _turns_chart(run: StoredRun, summary: Summary, shown: dict[str, int]) -> Chart | None:
    figure = go.Figure()
    for name, repetition in shown.items():
        done_s = of_repetition(run.turns, repetition, name)["done_at_ns"].to_numpy(dtype=np.float64) / 1e9
        if not done_s.size:
            continue
        edges = np.linspace(0, max(shown_end_s(run, name, repetition), float(done_s.max())), 41)
        counts, _ = np.histogram(done_s, edges)
        figure.add_trace(
            go.Scatter(
                x=np.round((edges[:-1] + edges[1:]) / 2, 3),
                y=np.round(counts / np.diff(edges), 3),
                mode="lines",
                name=name,
                line={"color": colour_of(summary, name), "width": 2, "shape": "hvh"},
                hovertemplate="%{y:.1f} turns/s at %{x:.1f} s<extra>" + name + "</extra>",
            )
        )
    if not figure.data:
        return None
    styled(figure, 280)
    figure.update_xaxes(title_text="emulated seconds since the start", rangemode="tozero")
    figure.update_yaxes(title_text="turns/s, emulated", rangemode="tozero")
    return Chart("turns", "Turns completed over time", "In 40 intervals of each job.", figure)


def _cpu_chart(run: StoredRun, summary: Summary, shown: dict[str, int]) -> Chart | None:
    figure = go.Figure()
    for name, repetition in shown.items():
        samples = of_repetition(run.host_samples, repetition, name)
        end_s = shown_end_s(run, name, repetition)
        if samples.empty or not end_s:
            continue
        bucket_s = bucket_length_s(end_s * 3)
        bucket = (samples["at_ns"] / 1e9 / bucket_s).astype("int64")
        busy: pd.Series[float] = samples.groupby(bucket)["cpu_busy_fraction"].mean()
        figure.add_trace(
            go.Scatter(
                x=np.round((busy.index.to_numpy(dtype=np.float64) + 0.5) * bucket_s, 3),
                y=np.round(busy.to_numpy(dtype=np.float64) * 100, 1),
                mode="lines",
                name=name,
                line={"color": colour_of(summary, name), "width": 1.6},
                hovertemplate="%{y:.0f} % at %{x:.1f} s<extra>" + name + "</extra>",
            )
        )
    if not figure.data:
        return None
    styled(figure, 260)
    figure.update_xaxes(title_text="emulated seconds since the start", rangemode="tozero")
    figure.update_yaxes(title_text="CPU busy, %", range=[0, 101])
    return Chart(
        "cpu",
        "CPU of the machines",
        "Mean over hosts (in an emulated cluster they share one machine). A run whose CPU is saturated is "
        "not a result.",
        figure,
    )
