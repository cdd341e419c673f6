"""The highest arrival rate within the SLO, by bisection (paper 7.4): pure; told what each point showed."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.experiment import Online
from harness.online.steady_state import Outcome


@dataclass(slots=True)
class ApsSearch:
    """Which rate of agents (real, a second) to try next for one policy.

    Either the given points in their order, or first both ends of the bracket and then its middle, until
    the highest rate that was steady and the lowest that was not are closer than ``resolution`` of the latter.
    """

    rules: Online
    outcomes: dict[float, Outcome] = field(default_factory=dict)

    @property
    def highest_steady(self) -> float | None:
        """Agents a second; None: no rate that was tried met the SLO."""
        return max((rate for rate, outcome in self.outcomes.items() if outcome == "steady"), default=None)

    def next_rate(self) -> float | None:
        """The next rate to try; None: the search is over."""
        if self.rules.agents_per_s:
            return next((rate for rate in self.rules.agents_per_s if rate not in self.outcomes), None)
        low, high = self.rules.search_from, self.rules.search_to
        if low is None or high is None:
            return None
        if low not in self.outcomes:
            return low
        if self.highest_steady is None:
            return None
        if high not in self.outcomes:
            return high
        failing = [rate for rate, outcome in self.outcomes.items() if outcome != "steady"]
        if not failing or min(failing) <= self.highest_steady:
            return None
        within, beyond = self.highest_steady, min(failing)
        return (within + beyond) / 2 if 1 - within / beyond > self.rules.resolution else None

    def record(self, rate: float, outcome: Outcome) -> None:
        """What the point at ``rate`` showed."""
        self.outcomes[rate] = outcome
