"""The run in a sentence or two: what the comparison says, and which resource bounded each policy."""

from __future__ import annotations

from collections.abc import Iterable

NO_PAIR = "no comparison: the run has no pair of policies"


def verdict(
    finding: str, compared: Iterable[str | None], bottlenecks: dict[str, str], problems: list[str]
) -> str:
    """One paragraph of plain text; an invalid run says so before anything else."""
    bounds = [f"{name}: {bottlenecks[name]}" for name in compared if name in bottlenecks]
    text = ". ".join((finding, *bounds)) + "."
    if not problems:
        return text
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"Not a result ({count}). Measured nevertheless: {text}"
