"""What a gate says of a run that fails it, in one line."""

from __future__ import annotations

from reports.metadata import Repetition


def problem(what: str, where: str, found: str, expected: str, fix: str) -> str:
    """The line."""
    return f"{what}: {where}: found {found}, expected {expected}; {fix}"


def where(repetition: Repetition) -> str:
    """A repetition, as a place in a run."""
    return f"repetition {repetition.repetition} ({repetition.policy})"
