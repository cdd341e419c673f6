"""From which block size on a copy a block is as good as one of all, and where other ways are faster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

AS_GOOD = 0.9
"""Share of the reference's rate."""
FASTER = 1.02
"""Over a rate that is less than 2 % lower, there is no significant difference (README, design decisions)."""


class Crossover(msgspec.Struct, frozen=True):
    """Of the sizes measured, the smallest from which on all reach `AS_GOOD`, and the largest that does not;
    None where there is no such. Nothing is interpolated: the crossover lies between the two."""

    from_bytes: int | None
    short_bytes: int | None


def crossover(shares: Mapping[int, float]) -> Crossover:
    """By each size's share of the reference's rate."""
    short = max((size for size, share in shares.items() if share < AS_GOOD), default=None)
    reached = (size for size in shares if short is None or size > short)
    return Crossover(min(reached, default=None), short)


def faster_at(ratios: Mapping[int, float]) -> list[int]:
    """The sizes, ascending, at which a way's rate is so many times the other's that it is faster."""
    return sorted(size for size, ratio in ratios.items() if ratio >= FASTER)


def span(chosen: Collection[int], sizes: Sequence[int], words: Callable[[int], str]) -> str:
    """``chosen`` of the ascending ``sizes``, as ``up to 64KiB``."""
    inside = [size for size in sizes if size in chosen]
    if not inside:
        return "at no size"
    if inside == list(sizes):
        return "at every size"
    if inside == list(sizes[: len(inside)]):
        return f"up to {words(inside[-1])}"
    if inside == list(sizes[-len(inside) :]):
        return f"from {words(inside[0])} on"
    return f"at {', '.join(map(words, inside))}"
