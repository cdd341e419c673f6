"""What is assigned and not finished, by engine and host, and the limits that choices respect (paper 6.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

ReadPath = Literal["prefill", "decode", "split", "none"]


class Engine(NamedTuple):
    """One GPU of a host."""

    host: str
    rank: int


@dataclass(frozen=True, slots=True)
class Request:
    """One turn as the request scheduler sees it; ``hit_tokens`` fill ``hit_blocks`` full blocks."""

    turn_id: int
    hit_blocks: int
    hit_tokens: int
    new_tokens: int
    output_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """What the prefill engine has to get through."""
        return self.hit_tokens + self.new_tokens

    @property
    def tokens(self) -> int:
        """KV tokens in decode HBM at the end; a replay knows how many will be generated (paper 7.1)."""
        return self.hit_tokens + self.new_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one request is served and who reads its hit KV; ``path`` "none": nothing is read or moved.

    The decode host reads the first ``decode_read_blocks`` of the hit, the prefill host the other
    ``prefill_read_blocks``.
    """

    prefill: Engine
    decode: Engine
    path: ReadPath
    prefill_read_blocks: int
    decode_read_blocks: int

    @property
    def moves(self) -> bool:
        """Whether KV is read, moved and persisted at all."""
        return self.path != "none"


@dataclass(frozen=True, slots=True)
class Limits:
    """What hosts and engines can take.

    ``alpha_tokens``: tokens that a host reads in 3 s, by host. ``beta_tokens``: tokens that one engine
    prefills in 5 s. ``decode_hbm_tokens``: KV tokens that one decode engine's HBM holds;
    ``decode_buffer_tokens``: those that a decode host's DE buffer holds.
    """

    alpha_tokens: Mapping[str, float]
    beta_tokens: float
    decode_hbm_tokens: int
    decode_buffer_tokens: int


@dataclass(slots=True)
class EngineLoad:
    """``requests`` and ``tokens`` that an engine has not finished: the paper's seq_e and tok_e."""

    engine: Engine
    requests: int = 0
    tokens: int = 0

    def add(self, tokens: int) -> None:
        """One more request."""
        self.requests += 1
        self.tokens += tokens

    def remove(self, tokens: int) -> None:
        """One request less."""
        self.requests -= 1
        self.tokens -= tokens


@dataclass(slots=True)
class _Holding:
    """What one request occupies at the moment."""

    request: Request
    prefill: EngineLoad | None
    decode_host: str = ""
    decode: EngineLoad | None = None
    reads: dict[str, int] = field(default_factory=dict)


class ClusterLoad:
    """Unfinished work of every engine, engines in lists by host, and every host's read queue in tokens.

    A prefill engine counts a request's prompt from its choice until it is prefilled, a decode engine all
    its tokens from its choice until it is finished. ``decode_host_tokens`` counts a host's engines and
    the requests that wait for one of them; ``read_tokens`` all that a host was ever given to read.
    ``decode_buffer_tokens``: prompts in a host's DE buffer, from the decode engine's choice until prefilled.

    Of all requests whose prefill engine is chosen, ``prompt_tokens`` counts the prompts that are not
    prefilled and ``request_tokens`` all tokens of those that are not finished; ``in_line`` are those without
    a decode engine yet.
    """

    def __init__(self, prefill_hosts: Mapping[str, int], decode_hosts: Mapping[str, int]) -> None:
        """Engines of each host, by host name."""
        self.prefill = _idle(prefill_hosts)
        self.decode = _idle(decode_hosts)
        self.read_queue_tokens = dict.fromkeys((*prefill_hosts, *decode_hosts), 0)
        self.read_tokens = dict(self.read_queue_tokens)
        self.decode_host_tokens = dict.fromkeys(decode_hosts, 0)
        self.decode_buffer_tokens = dict.fromkeys(decode_hosts, 0)
        self.prompt_tokens = self.request_tokens = self.in_line = 0
        self._holdings: dict[int, _Holding] = {}

    def assign_prefill(self, request: Request, engine: EngineLoad) -> None:
        """The prefill engine is chosen."""
        engine.add(request.prompt_tokens)
        self.prompt_tokens += request.prompt_tokens
        self.request_tokens += request.tokens
        self.in_line += 1
        self._holdings[request.turn_id] = _Holding(request, engine)

    def assign_decode_host(self, request: Request, host: str) -> None:
        """The decode host is chosen, not yet its engine."""
        self.decode_host_tokens[host] += request.tokens
        self._holdings[request.turn_id].decode_host = host

    def assign_decode(self, request: Request, engine: EngineLoad) -> None:
        """The decode engine is chosen: its HBM is taken."""
        engine.add(request.tokens)
        self.in_line -= 1
        self.decode_buffer_tokens[engine.engine.host] += request.prompt_tokens
        self._holdings[request.turn_id].decode = engine

    def assign_reads(self, request: Request, placement: Placement) -> None:
        """The path is chosen: each reading host has its share of the hit in its read queue."""
        reads = self._holdings[request.turn_id].reads
        shares = (
            (placement.prefill.host, placement.prefill_read_blocks),
            (placement.decode.host, placement.decode_read_blocks),
        )
        for host, blocks in shares:
            if blocks:
                reads[host] = blocks * request.hit_tokens // request.hit_blocks
                self.read_queue_tokens[host] += reads[host]
                self.read_tokens[host] += reads[host]

    def read_done(self, turn_id: int, host: str) -> None:
        """``host`` has read its share; without effect after `finished`, as in `prefilled`.

        Hosts report independently, so the decode host's last report can overtake another's.
        """
        if holding := self._holdings.get(turn_id):
            self.read_queue_tokens[host] -= holding.reads.pop(host, 0)

    def prefilled(self, turn_id: int) -> None:
        """The prefill engine is done with the request."""
        holding = self._holdings.get(turn_id)
        if holding and holding.prefill:
            holding.prefill.remove(holding.request.prompt_tokens)
            self.prompt_tokens -= holding.request.prompt_tokens
            holding.prefill = None
            if holding.decode:
                self.decode_buffer_tokens[holding.decode_host] -= holding.request.prompt_tokens

    def finished(self, turn_id: int) -> None:
        """The request is done or withdrawn: it gives up all that it still holds."""
        for host in list(self._holdings[turn_id].reads):
            self.read_done(turn_id, host)
        self.prefilled(turn_id)
        holding = self._holdings.pop(turn_id)
        self.request_tokens -= holding.request.tokens
        if holding.decode_host:
            self.decode_host_tokens[holding.decode_host] -= holding.request.tokens
        if holding.decode:
            holding.decode.remove(holding.request.tokens)
        else:
            self.in_line -= 1


def _idle(hosts: Mapping[str, int]) -> dict[str, list[EngineLoad]]:
    def engines(host: str, count: int) -> Iterator[EngineLoad]:
        return (EngineLoad(Engine(host, rank)) for rank in range(count))

    return {host: list(engines(host, count)) for host, count in hosts.items()}
