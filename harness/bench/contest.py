"""Several tools measuring the same thing in turn, A B B A, so that drift of the machine falls on all
alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from hosts.bench.load import Observed

_Name = TypeVar("_Name", bound=str)
_Found = TypeVar("_Found")


class Result(msgspec.Struct, frozen=True):
    """One tool's figures in one round; None where the tool does not tell.

    ``cpu_s_per_gb``: CPU seconds of all its processes for 10^9 bytes.
    """

    bytes_per_s: float
    operations_per_s: float | None = None
    latency_s_p50: float | None = None
    latency_s_p99: float | None = None
    cpu_s_per_gb: float | None = None

    @classmethod
    def of(cls, observed: Observed) -> Result:
        """Of a closed loop of ours."""
        return cls(
            bytes_per_s=observed.bytes / observed.seconds,
            operations_per_s=observed.operations / observed.seconds,
            latency_s_p50=observed.latency_s_p50,
            latency_s_p99=observed.latency_s_p99,
            cpu_s_per_gb=observed.cpu_s / (observed.bytes / 1e9) if observed.bytes else None,
        )


class Contest(msgspec.Struct, frozen=True):
    """All rounds of each tool, in the order of the rounds."""

    rounds: dict[str, list[Result]]

    def median(self, tool: str) -> Result:
        """Figure by figure."""
        results = self.rounds[tool]

        def middle(field: str) -> float | None:
            values = [value for result in results if (value := getattr(result, field)) is not None]
            return statistics.median(values) if values else None

        return Result(**{field: middle(field) for field in Result.__struct_fields__})  # type: ignore[arg-type]

    def ratio(self, tool: str, other: str) -> float:
        """Bandwidth of ``tool`` over that of ``other``: the median of the rounds' own ratios."""
        return statistics.median(self.ratios(tool, other))

    def ratios(self, tool: str, other: str) -> list[float]:
        """Those of the rounds."""
        pairs = zip(self.rounds[tool], self.rounds[other], strict=True)
        return [mine.bytes_per_s / its.bytes_per_s for mine, its in pairs]


def contest(tools: Mapping[str, Callable[[], Result]], rounds: int) -> Contest:
    """Every tool once a round."""
    return Contest(in_turn(tools, rounds))


def in_turn(tools: Mapping[_Name, Callable[[], _Found]], rounds: int) -> dict[_Name, list[_Found]]:
    """What every tool finds once a round, the order reversed from round to round."""
    names = list(tools)
    found: dict[_Name, list[_Found]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(tools[name]())
    return found
