"""What a run is judged by: its records, and the metrics derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from reports.metadata import Repetition
from reports.metrics import PolicyMetrics
from reports.stored_run import StoredRun


@dataclass(frozen=True)
class Evidence:
    """A run and the metrics of each of its policies."""

    run: StoredRun
    policies: dict[str, PolicyMetrics]

    @cached_property
    def repetitions(self) -> list[Repetition]:
        """Those that enter the metrics, policy by policy."""
        return [repetition for policy in self.policies for repetition in self.run.complete(policy)]
