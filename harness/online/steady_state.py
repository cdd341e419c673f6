"""When a point of an online run is decided (paper 7.4): it violates the SLO, or it is steady.

The paper's windows hold many hundred turns. In short ones a mean TTFT far below the SLO varies by more than
a few percent without any queue building up; so a point counts as steady, too, where TTFT would need many
times the lookback to reach the SLO at the pace at which it has changed.

Pure: told what happened when, in real seconds since the point began.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Literal, NamedTuple

from harness.experiment import Online

Outcome = Literal["steady", "ttft_slo", "tpot_slo", "time_limit"]

_LOOKBACKS_TO_SLO = 10
"""An overload by x lets TTFT grow by x seconds a second, so of the paper's SLO and ``lookback_s`` = 30 one by
4 s / (10 x 30 s) = 1.3 % still shows: less than such a search resolves."""


class _Observed(NamedTuple):
    at_s: float
    value_s: float


_at = attrgetter("at_s")


class PointWatch:
    """Mean TTFT and TPOT over the last window, against the SLO and against themselves before."""

    def __init__(self, rules: Online) -> None:
        self._rules = rules
        self._ttft: list[_Observed] = []
        self._tpot: list[_Observed] = []
        self.decided: Outcome | None = None

    def first_token(self, at_s: float, ttft_s: float) -> None:
        """A turn's first token; calls come in the order of ``at_s``."""
        self._ttft.append(_Observed(at_s, ttft_s))

    def finished(self, at_s: float, tpot_s: float) -> None:
        """A turn's last token, if it had more than one; calls come in the order of ``at_s``."""
        self._tpot.append(_Observed(at_s, tpot_s))

    def decide(self, now_s: float) -> Outcome | None:
        """What the point has shown by ``now_s``; None: nothing yet. It stays with what it once said."""
        self.decided = self.decided or self._outcome(now_s)
        return self.decided

    def _outcome(self, now_s: float) -> Outcome | None:
        """Nothing before one whole window."""
        rules = self._rules
        if now_s >= rules.window_s:
            ttft_s, tpot_s = self._mean(self._ttft, now_s), self._mean(self._tpot, now_s)
            if ttft_s is not None and ttft_s > rules.slo_ttft_s:
                return "ttft_slo"
            if tpot_s is not None and tpot_s > rules.slo_tpot_s:
                return "tpot_slo"
            if now_s >= rules.window_s + rules.lookback_s and ttft_s is not None:
                before_s = self._mean(self._ttft, now_s - rules.lookback_s)
                if before_s is not None and self._is_steady(before_s, ttft_s):
                    return "steady"
        return "time_limit" if now_s >= rules.limit_s else None

    def _is_steady(self, before_s: float, ttft_s: float) -> bool:
        change_s = abs(ttft_s - before_s)
        within_tolerance = change_s < self._rules.tolerance * before_s
        return within_tolerance or ttft_s + _LOOKBACKS_TO_SLO * change_s < self._rules.slo_ttft_s

    def _mean(self, observed: Sequence[_Observed], end_s: float) -> float | None:
        """Over the window that ends at ``end_s``; None where nothing was observed in it."""
        first = bisect_right(observed, end_s - self._rules.window_s, key=_at)
        last = bisect_right(observed, end_s, key=_at)
        values = [o.value_s for o in observed[first:last]]
        return sum(values) / len(values) if values else None
