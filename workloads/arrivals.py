"""When agents arrive: start times in seconds of the emulated system, from the start of a run.

An offline run starts all at once (JCT); an online one is an open loop of Poisson arrivals (APS) or takes
the recorded starts (paper section 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workloads.trace import TraceError

StartTimes = NDArray[np.float64]
"""Seconds, one for each agent."""


def at_once(agents: int) -> StartTimes:
    """All agents at 0; shape [agents]."""
    return np.zeros(agents)


def poisson(agents: int, agents_per_s: float, seed: int) -> StartTimes:
    """Exponential gaps of mean 1 / ``agents_per_s``, the first before the first agent; ascending,
    shape [agents]. ``TraceError`` if the rate is not positive and finite."""
    _check("agents_per_s", agents_per_s, valid=0 < agents_per_s < math.inf, expected="above 0")
    return np.cumsum(np.random.default_rng(seed).exponential(1 / agents_per_s, agents))


def recorded(
    starts_s: Sequence[float], *, time_scale: float = 1.0, jitter_s: float = 0.0, seed: int = 0
) -> StartTimes:
    """Recorded session starts, in the order given, the earliest moved to 0; shape [len(starts_s)].

    Some recorders round times (Mooncake's to 3 s), so that many sessions start at one instant. ``jitter_s``
    spreads them: each start is delayed by a seeded uniform draw from [0, jitter_s) recorded seconds.
    ``time_scale`` then multiplies all times: 0.5 doubles the rate. ``TraceError`` if ``time_scale`` is not
    positive or ``jitter_s`` is negative.
    """
    _check("time_scale", time_scale, valid=0 < time_scale < math.inf, expected="above 0")
    _check("jitter_s", jitter_s, valid=0 <= jitter_s < math.inf, expected="0 or more")
    starts: StartTimes = np.array(starts_s, dtype=np.float64)
    delays = np.random.default_rng(seed).uniform(0, jitter_s, len(starts))
    times: StartTimes = (starts - starts.min(initial=math.inf) + delays) * time_scale
    return times


def _check(what: str, found: float, *, valid: bool, expected: str) -> None:
    if not valid:
        raise TraceError.at(
            f"arrivals: {what}", found=str(found), expected=f"a finite number, {expected}", fix="correct it"
        )
