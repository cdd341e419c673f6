"""A policy: one rule for the engines and one for the side that reads the hit KV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.scheduling.engines import EngineChoice, RoundRobinEngines
from harness.scheduling.load import ClusterLoad, Limits, ReadPath, Request


class Sides(NamedTuple):
    """A request's two hosts, as a path rule sees them.

    ``number``: of the request, in the order of submission. ``cycle``: consecutive requests after which
    round robin is back at the same two hosts. Read queues in tokens, and what each host was ever given
    to read; rates in tokens per unit of time.
    """

    number: int
    cycle: int
    prefill_queue_tokens: int
    decode_queue_tokens: int
    prefill_read_tokens: int
    decode_read_tokens: int
    prefill_read_rate: float
    decode_read_rate: float


class ReadChoice(NamedTuple):
    """Who reads, and how many of the request's hit blocks on each side."""

    path: ReadPath
    prefill_blocks: int
    decode_blocks: int


PathRule = Callable[[Request, Sides], ReadChoice]


def read_on_prefill(request: Request, sides: Sides) -> ReadChoice:
    """The PE read path, always (paper 4.1)."""
    return ReadChoice("prefill", request.hit_blocks, 0)


def read_on_decode(request: Request, sides: Sides) -> ReadChoice:
    """The DE read path, always (paper 4.1)."""
    return ReadChoice("decode", 0, request.hit_blocks)


def read_nowhere(request: Request, sides: Sides) -> ReadChoice:
    """No KV is read, moved or persisted."""
    return ReadChoice("none", 0, 0)


def alternate(request: Request, sides: Sides) -> ReadChoice:
    """Blind: the two sides in turn.

    Shifted by one with every cycle: otherwise, with an even number of hosts, round robin would have
    the same hosts read for ever.
    """
    rule = read_on_decode if sum(divmod(sides.number, sides.cycle)) % 2 else read_on_prefill
    return rule(request, sides)


_BLIND_PATHS = (read_on_prefill, read_on_decode, read_nowhere, alternate)


@dataclass(frozen=True, slots=True)
class Policy:
    """What an experiment compares."""

    name: str
    engines: Callable[[ClusterLoad, Limits], EngineChoice]
    path: PathRule

    def without_scheduling(self) -> Policy:
        """The ablation of paper 7: engines by round robin; a path rule that looks at queues alternates."""
        path = self.path if self.path in _BLIND_PATHS else alternate
        return replace(self, engines=RoundRobinEngines, path=path)
