"""The highest arrival rate within the SLO, by bisection (paper 7.4): pure; told what each point showed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from harness.experiment import Online
from harness.online.steady_state import Outcome


@dataclass(slots=True)
class ApsSearch:
    """Which rate of agents (real, a second) to try next for one policy.

    Either the given points in their order, or the geometric middle between the highest rate that was
    steady and the lowest that was not, until they are closer than ``resolution`` of the latter. Until a
    point says otherwise the lower end counts as steady and the upper one not; a search that ends there
    tries it, too.
    """

    rules: Online
    outcomes: dict[float, Outcome] = field(default_factory=dict)

    @property
    def highest_steady(self) -> float | None:
        """Agents a second; None: no rate that was tried met the SLO."""
        return max((rate for rate, outcome in self.outcomes.items() if outcome == "steady"), default=None)

    @property
    def lowest_failing(self) -> float | None:
        """Agents a second; None: every rate that was tried met the SLO."""
        return min((rate for rate, outcome in self.outcomes.items() if outcome != "steady"), default=None)

    def next_rate(self) -> float | None:
        """The next rate to try; None: the search is over."""
        low, high = self.rules.search_from, self.rules.search_to
        if low is None or high is None:
            return next((rate for rate in self.rules.agents_per_s if rate not in self.outcomes), None)
        within, beyond = self.highest_steady or low, self.lowest_failing or high
        if 1 - within / beyond > self.rules.resolution:
            return math.sqrt(within * beyond)
        return next((rate for rate in (within, beyond) if rate not in self.outcomes), None)

    def record(self, rate: float, outcome: Outcome) -> None:
        """What the point at ``rate`` showed."""
        self.outcomes[rate] = outcome
