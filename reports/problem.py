"""What a gate says of a run that fails it, in one line."""

from __future__ import annotations

import msgspec

from reports.metadata import Repetition


class Problem(msgspec.Struct, frozen=True):
    """Why a run is no result: what is wrong, where, and what to do about it."""

    what: str
    where: str
    found: str
    expected: str
    fix: str

    @property
    def line(self) -> str:
        """All of it, as people see it."""
        return f"{self.what}: {self.where}: found {self.found}, expected {self.expected}; {self.fix}"


def where(repetition: Repetition) -> str:
    """A repetition, as a place in a run."""
    return f"repetition {repetition.repetition} ({repetition.policy})"
