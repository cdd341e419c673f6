"""What all pictures share: colours, fonts, and which repetition they show."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from reports.stored_run import StoredRun, of_repetition
from reports.summary import Summary

INK, FAINT, CEILING = "#1c2733", "#e6eaee", "#b3261e"
POLICY_COLOURS = ("#b06a00", "#0b63b0", "#1b7f5c", "#7a4fa3", "#5b6875", "#c2477f")
"""In the order of the policies: distinct to colour-blind readers too (after Okabe and Ito)."""

POINTS = 300


class Chart(NamedTuple):
    """A figure with the heading and the sentence that says how to read it."""

    key: str
    title: str
    caption: str
    figure: go.Figure


def shown_repetition(run: StoredRun, policy: str) -> int | None:
    """The repetition that pictures show: offline of median JCT, online of the highest arrival rate.

    If none is complete, the last with samples.
    """
    complete = sorted(
        run.complete(policy), key=lambda r: (r.agents_per_s or 0.0, r.jct_s or 0.0, r.repetition)
    )
    if complete:
        return complete[-1 if run.metadata.online is not None else (len(complete) - 1) // 2].repetition
    sampled = run.nic_samples.loc[run.nic_samples["policy"] == policy, "repetition"]
    return int(sampled.max()) if len(sampled) else None


def shown_in_words(run: StoredRun, shown: dict[str, int]) -> str:
    """Which repetitions a picture shows, a sentence."""
    which = "Highest arrival rate" if run.metadata.online is not None else "Repetition of median JCT"
    repetitions = ", ".join(f"{policy}: repetition {number}" for policy, number in shown.items())
    return f"{which} ({repetitions})."


def colour_of(summary: Summary, policy: str) -> str:
    """A policy's colour, the same in every picture."""
    return POLICY_COLOURS[list(summary.policies).index(policy) % len(POLICY_COLOURS)]


def translucent(colour: str, alpha: float) -> str:
    """``#rrggbb`` as a CSS colour of opacity ``alpha``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def styled(figure: go.Figure, height: int, **layout: object) -> go.Figure:
    """Give a figure the report's look; ``height`` in pixels."""
    figure.update_layout(
        height=height,
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        margin={"l": 70, "r": 24, "t": 34, "b": 46},
        hoverlabel={"font": {"size": 12}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        **layout,
    )
    figure.update_xaxes(showline=True, linecolor="#9aa5b1", gridcolor=FAINT, zeroline=False)
    figure.update_yaxes(showline=True, linecolor="#9aa5b1", gridcolor=FAINT, zeroline=False)
    return figure


def shown_end_s(run: StoredRun, policy: str, repetition: int) -> float:
    """Where a repetition's time axis ends: its JCT, or the last sample of one that broke off."""
    done = [r.jct_s for r in run.complete(policy) if r.repetition == repetition]
    if done and done[0]:
        return done[0]
    at_ns = of_repetition(run.nic_samples, repetition, policy)["at_ns"]
    return float(at_ns.max()) / 1e9 if len(at_ns) else 0.0


def bucket_length_s(end_s: float) -> float:
    """100 ms as long as that leaves a readable number of points, else a multiple of it."""
    return 0.1 * max(1, int(np.ceil(end_s / 0.1 / POINTS)))
