"""What a policy sees: unfinished tokens of every engine and the read queue of every host (paper 6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

ReadPath = Literal["prefill", "decode", "none"]


class Engine(NamedTuple):
    """One GPU of a host."""

    host: str
    rank: int


@dataclass(frozen=True, slots=True)
class Request:
    """One turn as the scheduler sees it."""

    turn_id: int
    hit_tokens: int
    new_tokens: int

    @property
    def tokens(self) -> int:
        """Prompt length."""
        return self.hit_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Placement:
    """A policy's decision for one request. ``path``: whose host reads the hit KV; "none": nobody."""

    prefill: Engine
    decode: Engine
    path: ReadPath

    @property
    def reader(self) -> str | None:
        """The host that reads."""
        return {"prefill": self.prefill.host, "decode": self.decode.host, "none": None}[self.path]


class ClusterLoad:
    """Bookkeeping of what is assigned and not finished, kept by the replay, read by policies.

    ``prefill_tokens`` and ``decode_tokens`` are the paper's tok_e; ``read_queue_tokens`` its read_q.
    """

    def __init__(self, prefill_hosts: Mapping[str, int], decode_hosts: Mapping[str, int]) -> None:
        """Engines of each host, by host name."""
        self.prefill_tokens = {e: 0 for e in _engines(prefill_hosts)}
        self.decode_tokens = {e: 0 for e in _engines(decode_hosts)}
        self.read_queue_tokens = dict.fromkeys((*prefill_hosts, *decode_hosts), 0)

    def least_loaded_prefill(self) -> Engine:
        """Fewest unfinished tokens; among equals the host that has least to read."""
        queue = self.read_queue_tokens
        return min(self.prefill_tokens.items(), key=lambda item: (item[1], queue[item[0].host]))[0]

    def least_loaded_decode(self) -> Engine:
        """Fewest unfinished tokens; among equals the host that has least to read."""
        queue = self.read_queue_tokens
        return min(self.decode_tokens.items(), key=lambda item: (item[1], queue[item[0].host]))[0]

    def assign(self, request: Request, placement: Placement) -> None:
        """A placement takes effect."""
        self.prefill_tokens[placement.prefill] += request.tokens
        self.decode_tokens[placement.decode] += request.tokens
        if placement.reader is not None:
            self.read_queue_tokens[placement.reader] += request.hit_tokens

    def read_done(self, request: Request, placement: Placement) -> None:
        """The hit KV is in the reader's buffer."""
        if placement.reader is not None:
            self.read_queue_tokens[placement.reader] -= request.hit_tokens

    def prefilled(self, request: Request, placement: Placement) -> None:
        """The prefill engine is done with the request."""
        self.prefill_tokens[placement.prefill] -= request.tokens

    def finished(self, request: Request, placement: Placement) -> None:
        """The decode engine is done with the request."""
        self.decode_tokens[placement.decode] -= request.tokens


def _engines(hosts: Mapping[str, int]) -> Iterable[Engine]:
    return (Engine(host, index) for host, engines in hosts.items() for index in range(engines))
