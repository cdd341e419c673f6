"""Which paths are measured together: pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Path(NamedTuple):
    """Between compute NICs: who reads, and from whom."""

    initiator: str
    peer: str


def alone(prefill: Sequence[str], decode: Sequence[str]) -> list[list[Path]]:
    """Every host reads once from a host of the other role, nothing else being under way."""
    reading = [Path(p, decode[i % len(decode)]) for i, p in enumerate(prefill)]
    reading += [Path(d, prefill[i % len(prefill)]) for i, d in enumerate(decode)]
    return [[path] for path in reading]


def together(prefill: Sequence[str], decode: Sequence[str]) -> list[list[Path]]:
    """Rounds in which as many pairs as there can be are at work at once, each host in one of them, reading
    from each other at the same time; in all rounds together every pair of roles is, once.

    So no NIC has more to carry in either direction than when its host reads alone: what a path loses, the
    network between them has taken.
    """
    rounds = []
    few, many = sorted((prefill, decode), key=len)
    for shift in range(len(many)):
        pairs = [(host, many[(i + shift) % len(many)]) for i, host in enumerate(few)]
        rounds.append([path for a, b in pairs for path in (Path(a, b), Path(b, a))])
    return rounds
