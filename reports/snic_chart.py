"""The picture of the report: what every storage NIC received over time, by host and policy."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.busy_window import busy_window
from reports.metadata import Host
from reports.nic_series import carried, throughput
from reports.plot_style import (
    CEILING,
    Chart,
    bucket_length_s,
    colour_of,
    shown_end_s,
    shown_in_words,
    styled,
    translucent,
)
from reports.storage_nics import SnicMetrics
from reports.stored_run import StoredRun, of_repetition
from reports.summary import Summary
from reports.units import percent


def snic_chart(run: StoredRun, summary: Summary, shown: dict[str, int]) -> Chart | None:
    """Small multiples, a row a host and a column a policy; None where no NIC was sampled."""
    hosts = [host for host in run.serving_hosts if (run.nic_samples["host"] == host.name).any()]
    if not hosts or not shown:
        return None
    policies = list(shown)
    ends_s = [shown_end_s(run, policy, repetition) for policy, repetition in shown.items()]
    figure = make_subplots(
        rows=len(hosts),
        cols=len(policies),
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=min(0.05, 0.25 / len(hosts)),
        column_titles=[f"<b>{policy}</b>" for policy in policies],
    )
    top = 0.0
    for row, host in enumerate(hosts, start=1):
        for column, policy in enumerate(policies, start=1):
            peak = _snic_panel(figure, run, summary, host, policy, shown[policy], max(ends_s), row, column)
            top = max(top, peak)
        figure.update_yaxes(title_text=f"<b>{host.name}</b><br>{host.role}", row=row, col=1)
    styled(figure, 120 + 118 * len(hosts), showlegend=False)
    figure.update_layout(margin={"l": 84})
    figure.update_yaxes(range=[0, top * 1.16], nticks=4)
    figure.update_xaxes(range=[0, max(ends_s)])
    figure.update_xaxes(title_text="emulated seconds since the start", row=len(hosts))
    return Chart(
        "snic",
        "What every storage NIC received over time",
        "Mbit/s on the interface (emulated, measured by its counters), one row a host, the same axes "
        "everywhere. Dashed: the ceiling measured on that path just before (payload). Grey: the busy "
        "window. The figure in each panel is the utilization in that window"
        + (". " if summary.online else ", over all repetitions. ")
        + shown_in_words(run, shown),
        figure,
    )


def _nics(summary: Summary, policy: str, repetition: int) -> dict[str, SnicMetrics]:
    """Offline over all repetitions; online of the repetition, whose load no other has."""
    if summary.online is None:
        return summary.policies[policy].storage_nic
    served = summary.online.policies.get(policy)
    points = served.points if served else []
    return next((point.storage_nic for point in points if point.repetition == repetition), {})


def _snic_panel(
    figure: go.Figure,
    run: StoredRun,
    summary: Summary,
    host: Host,
    policy: str,
    repetition: int,
    end_s: float,
    row: int,
    column: int,
) -> float:
    """Draw one NIC under one policy; returns the highest Mbit/s drawn."""
    samples = of_repetition(run.nic_samples, repetition, policy)
    samples = samples[(samples["host"] == host.name) & (samples["nic"] == host.storage_nic)].sort_values(
        "at_ns"
    )
    at_s, gbit_per_s = throughput(
        samples["at_ns"].to_numpy(dtype=np.int64),
        carried(samples, "rx"),
        shown_end_s(run, policy, repetition) * 1e9,
        int(bucket_length_s(end_s) * 1e9),
    )
    window = busy_window(
        of_repetition(run.transfers, repetition, policy), of_repetition(run.turns, repetition, policy)
    )
    colour = colour_of(summary, policy)
    figure.add_trace(
        go.Scatter(
            x=np.round(at_s, 3),
            y=np.round(gbit_per_s * 1e3, 2),
            mode="lines",
            line={"color": colour, "width": 1.3, "shape": "hvh"},
            fill="tozeroy",
            fillcolor=translucent(colour, 0.35),
            name=f"{host.name}, {policy}",
            hovertemplate="%{y:.1f} Mbit/s at %{x:.1f} s<extra>" + f"{host.name}, {policy}</extra>",
        ),
        row=row,
        col=column,
    )
    # After the trace: Plotly adds no shape to a panel that is still empty.
    if window:
        figure.add_vrect(
            x0=window.begin_at_ns / 1e9,
            x1=window.end_at_ns / 1e9,
            fillcolor="#8795a3",
            opacity=0.18,
            line_width=0,
            layer="below",
            row=row,
            col=column,
        )
    nic = _nics(summary, policy, repetition).get(host.name)
    ceiling = (nic.ceiling_gbit_per_s or 0.0) * 1e3 if nic else 0.0
    if nic is None or not ceiling:
        ceiling_of_host = run.metadata.ceilings.get(host.name)
        ceiling = ceiling_of_host.storage_read_bytes_per_s * 8 / 1e6 if ceiling_of_host else 0.0
    if ceiling:
        figure.add_hline(
            y=ceiling, line={"color": CEILING, "width": 1.2, "dash": "dash"}, row=row, col=column
        )
    if nic and nic.busy_utilization is not None:
        note = percent(nic.busy_utilization, 0) + ("" if nic.expected_busy else ", idle")
        figure.add_annotation(
            text=f"<b>{note}</b>",
            x=0.985,
            y=0.5 if nic.expected_busy else 0.3,
            xref="x domain",
            yref="y domain",
            xanchor="right",
            showarrow=False,
            font={"size": 13},
            bgcolor="rgba(255,255,255,0.82)",
            row=row,
            col=column,
        )
    peak = float(np.nanmax(gbit_per_s)) * 1e3 if np.isfinite(gbit_per_s).any() else 0.0
    return max(peak, ceiling)
