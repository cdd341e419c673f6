"""Pictures of the time to first token: its parts, its distribution, and how it grows with the load."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from reports.latency import ttft_s
from reports.plot_style import CEILING, POINTS, Chart, colour_of, styled
from reports.stored_run import StoredRun, of_repetitions
from reports.summary import Summary
from reports.units import number, seconds

PART_COLOURS = {
    "schedule": "#9aa5b1",
    "allocation": "#cdb57c",
    "read": "#c8553d",
    "engine_wait": "#e3b23c",
    "hbm_wait": "#8f5a2b",
    "compute": "#2e7d6b",
    "transfer": "#3f7cbf",
    "control": "#6b5b95",
}


def breakdown_chart(summary: Summary) -> Chart | None:
    """Mean TTFT in its parts: offline a bar a policy, online a bar a point."""
    breakdowns, unit = _breakdowns(summary)
    if not breakdowns:
        return None
    figure = go.Figure()
    for part in next(iter(breakdowns.values())):
        values = [parts_s[part] for parts_s in breakdowns.values()]
        figure.add_trace(
            go.Bar(
                y=list(breakdowns),
                x=[max(value, 0.0) for value in values],
                name=part.replace("_", " "),
                orientation="h",
                marker_color=PART_COLOURS[part],
                width=0.62,
                hovertemplate="%{x:.4f} s<extra>" + part.replace("_", " ") + "</extra>",
            )
        )
    styled(figure, 120 + 52 * len(breakdowns), barmode="stack")
    figure.update_layout(margin={"l": 150}, legend={"traceorder": "normal"})
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text=f"mean time to first token, {unit} seconds")
    return Chart(
        "breakdown",
        "Where the time to first token goes",
        "Mean over turns. Read is the hit KV from storage, its queue included; transfer is what "
        "compute did not hide.",
        figure,
    )


def _breakdowns(summary: Summary) -> tuple[dict[str, dict[str, float]], str]:
    """Mean seconds by part and bar, and which seconds they are."""
    if summary.online is None:
        parts_s = {policy: metrics.ttft_breakdown_s for policy, metrics in summary.policies.items()}
    else:
        parts_s = {
            f"{policy}, {number(point.agents_per_s)}/s": point.ttft_breakdown_real_s
            for policy, served in summary.online.policies.items()
            for point in served.points
        }
    return {bar: parts for bar, parts in parts_s.items() if parts}, "real" if summary.online else "emulated"


def ttft_chart(run: StoredRun, summary: Summary) -> Chart | None:
    """The distribution of TTFT, a line a policy."""
    figure = go.Figure()
    for name in summary.policies:
        sample_s = ttft_s(of_repetitions(run.turns, name, run.complete(name))).to_numpy(dtype=np.float64)
        if not sample_s.size:
            continue
        shares = np.linspace(0, 1, min(sample_s.size, POINTS))
        figure.add_trace(
            go.Scatter(
                x=np.round(np.quantile(sample_s, shares), 4),
                y=np.round(shares * 100, 2),
                mode="lines",
                name=name,
                line={"color": colour_of(summary, name), "width": 2},
                hovertemplate="%{y:.0f} % of turns within %{x:.3f} s<extra>" + name + "</extra>",
            )
        )
    if not figure.data:
        return None
    styled(figure, 300)
    figure.update_xaxes(title_text="time to first token, emulated seconds", rangemode="tozero")
    figure.update_yaxes(title_text="turns, %", range=[0, 101])
    return Chart("ttft", "Distribution of the time to first token", "Further left is better.", figure)


def online_chart(summary: Summary) -> Chart | None:
    """TTFT against the arrival rate with the SLO, a line a policy; None offline and without a point."""
    online = summary.online
    if online is None:
        return None
    figure = go.Figure()
    for policy, served in online.policies.items():
        points = [point for point in served.points if point.ttft_real_s["mean"] is not None]
        figure.add_trace(
            go.Scatter(
                x=[point.agents_per_s for point in points],
                y=[point.ttft_real_s["mean"] for point in points],
                mode="lines+markers",
                name=policy,
                line={"color": colour_of(summary, policy), "width": 2},
                marker={
                    "size": 9,
                    "symbol": ["circle" if p.outcome == "steady" else "x-thin-open" for p in points],
                },
                customdata=[point.outcome.replace("_", " ") for point in points],
                hovertemplate="%{y:.3f} s at %{x} agents/s: %{customdata}<extra>" + policy + "</extra>",
            )
        )
    rates = [rate for trace in figure.data for rate in trace.x]
    if not rates:
        return None
    # A trace, not a line with a label: Plotly misplaces labels of lines on logarithmic axes.
    figure.add_trace(
        go.Scatter(
            x=[0, max(rates)],
            y=[online.slo.ttft_s] * 2,
            mode="lines",
            name=f"SLO, TTFT {seconds(online.slo.ttft_s)}",
            line={"color": CEILING, "width": 1.2, "dash": "dash"},
            hoverinfo="skip",
        )
    )
    styled(figure, 340)
    figure.update_xaxes(title_text="agents/s, real hardware", rangemode="tozero")
    # Left alone, Plotly labels 2 and 5 without their power of ten.
    ticks = [digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5)]
    figure.update_yaxes(title_text="mean TTFT, real seconds", type="log", tickvals=ticks)
    return Chart(
        "online",
        "Time to first token against arrival rate",
        "Dot: steady within the SLO. Cross: the SLO was missed, or no steady state was reached in time. "
        "Further right is better.",
        figure,
    )
