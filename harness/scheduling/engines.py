"""Engine choice: the paper's, which looks at the load (paper 6.1), and a blind one to compare with.

Each assigns in the load what it chooses, so that the next choice sees it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection
from operator import attrgetter
from typing import NamedTuple, Protocol

from harness.scheduling.load import ClusterLoad, Engine, EngineLoad, Limits, Request

_BALANCE_SLACK = 1.05
_by_requests = attrgetter("requests", "tokens")
_by_tokens = attrgetter("tokens", "requests")


class Waiting(NamedTuple):
    """A submitted request; ``number`` counts from 0 in the order of submission."""

    number: int
    request: Request


class Queued(NamedTuple):
    """A request whose prefill engine is chosen."""

    number: int
    request: Request
    prefill: Engine


class EngineChoice(Protocol):
    """The three steps from a waiting request to its engines; each takes queues strictly FIFO."""

    def assign_prefill(self, waiting: deque[Waiting], asking: Collection[str]) -> list[Queued]:
        """Take from ``waiting`` what the asking hosts' prefill engines are given."""
        ...

    def assign_decode_host(self, queued: Queued) -> str:
        """Choose the decode host in whose queue the request waits for an engine."""
        ...

    def assign_decode(self, host: str, queue: deque[Queued]) -> list[tuple[Queued, Engine]]:
        """Take from ``host``'s queue what there is room for; a head without room stops it."""
        ...


class ScheduledEngines:
    """The paper's choice: least loaded, within what engines and read queues can take."""

    def __init__(self, load: ClusterLoad, limits: Limits) -> None:
        self._load = load
        self._limits = limits
        self._decode_engines = sum(map(len, load.decode.values()))
        self._decode_hbm_tokens = limits.decode_hbm_tokens * self._decode_engines
        self._decode_buffer_tokens = limits.decode_buffer_tokens * len(load.decode)

    def assign_prefill(self, waiting: deque[Waiting], asking: Collection[str]) -> list[Queued]:
        """Engines on hosts with a short read queue first, then those with a long one; never overloaded.

        Within a class the least tokens, then the fewest requests, then the first. Read queues stand
        still meanwhile and tokens only grow, so the short class is used up before the long one. No more is
        taken than all decode hosts together have room for, and one in line for each of their engines: what
        waits there for long was given its prefill engine by the read queues of another time, but with nothing
        in line, room on one host is offered to another, which has fewer tokens and no room.
        """
        queued: list[Queued] = []
        for engines in self._short_and_long(asking) if waiting else ():
            heap = [(e.tokens, e.requests, index, e) for index, e in enumerate(engines)]
            heapq.heapify(heap)
            while waiting and heap and heap[0][0] <= self._limits.beta_tokens:
                if not (self._decode_has_line() or self._decode_has_room_for(waiting[0].request)):
                    return queued
                _, _, index, engine = heap[0]
                number, request = waiting.popleft()
                self._load.assign_prefill(request, engine)
                heapq.heapreplace(heap, (engine.tokens, engine.requests, index, engine))
                queued.append(Queued(number, request, engine.engine))
        return queued

    def _decode_has_line(self) -> bool:
        return self._load.in_line < self._decode_engines

    def _decode_has_room_for(self, request: Request) -> bool:
        hbm_tokens = self._load.request_tokens + request.tokens
        buffer_tokens = self._load.prompt_tokens + request.prompt_tokens
        return hbm_tokens <= self._decode_hbm_tokens and buffer_tokens <= self._decode_buffer_tokens

    def _short_and_long(self, asking: Collection[str]) -> tuple[list[EngineLoad], list[EngineLoad]]:
        short: list[EngineLoad] = []
        long: list[EngineLoad] = []
        for host, engines in self._load.prefill.items():
            if host in asking:
                is_short = self._load.read_queue_tokens[host] <= self._limits.alpha_tokens[host]
                (short if is_short else long).extend(engines)
        return short, long

    def assign_decode_host(self, queued: Queued) -> str:
        """The host with the least tokens, its waiting requests included; then the first."""
        tokens = self._load.decode_host_tokens
        host = min(tokens, key=tokens.__getitem__)
        self._load.assign_decode_host(queued.request, host)
        return host

    def assign_decode(self, host: str, queue: deque[Queued]) -> list[tuple[Queued, Engine]]:
        """Engines that stay below the balanced share Z: fewest requests; if none does: least tokens.

        Nothing is placed that the DE buffer has no room for: the read path is then chosen when reading can
        begin, by the queues of that moment.
        """
        engines = self._load.decode[host]
        balanced_tokens = 0.0
        chosen: list[tuple[Queued, Engine]] = []
        while queue:
            tokens = queue[0].request.tokens
            buffered = self._load.decode_buffer_tokens[host] + queue[0].request.prompt_tokens
            if buffered > self._limits.decode_buffer_tokens:
                break
            room = [e for e in engines if e.tokens + tokens <= self._limits.decode_hbm_tokens]
            if not room:
                break
            balanced_tokens = balanced_tokens or self._balanced_tokens(host, queue)
            light = [e for e in room if e.tokens + tokens <= balanced_tokens]
            engine = min(light, key=_by_requests) if light else min(room, key=_by_tokens)
            self._load.assign_decode(queue[0].request, engine)
            chosen.append((queue.popleft(), engine.engine))
        return chosen

    def _balanced_tokens(self, host: str, queue: deque[Queued]) -> float:
        """Z of paper 6.1, over what runs and the longest prefix of the queue that fits the free HBM.

        Placing that prefix moves its tokens from one sum to the other: Z stays until new ones come.
        """
        engines = self._load.decode[host]
        hbm_tokens = self._limits.decode_hbm_tokens * len(engines)
        total = self._load.decode_host_tokens[host]  # with the whole queue, which mostly fits
        if total > hbm_tokens:
            total = sum(engine.tokens for engine in engines)
            for queued in queue:
                if total + queued.request.tokens > hbm_tokens:
                    break
                total += queued.request.tokens
        return _BALANCE_SLACK * total / len(engines)


class RoundRobinEngines:
    """Blind: the n-th request goes to engine n modulo engines on each side, neighbours to other hosts.

    Of the load it respects only decode HBM, which cannot be overrun.
    """

    def __init__(self, load: ClusterLoad, limits: Limits) -> None:
        self._load = load
        self._limits = limits
        self._prefill = _interleaved(load.prefill.values())
        self._decode = _interleaved(load.decode.values())

    def assign_prefill(self, waiting: deque[Waiting], asking: Collection[str]) -> list[Queued]:
        """Each request whose host asks; the others keep their order."""
        queued: list[Queued] = []
        for _ in range(len(waiting)):
            number, request = waiting.popleft()
            engine = self._prefill[number % len(self._prefill)]
            if engine.engine.host in asking:
                self._load.assign_prefill(request, engine)
                queued.append(Queued(number, request, engine.engine))
            else:
                waiting.append(Waiting(number, request))
        return queued

    def assign_decode_host(self, queued: Queued) -> str:
        """The host of the engine whose turn it is."""
        host = self._next_decode(queued).engine.host
        self._load.assign_decode_host(queued.request, host)
        return host

    def assign_decode(self, host: str, queue: deque[Queued]) -> list[tuple[Queued, Engine]]:
        """Each request to the engine whose turn it is, once that has room."""
        chosen: list[tuple[Queued, Engine]] = []
        while queue:
            engine = self._next_decode(queue[0])
            if engine.tokens + queue[0].request.tokens > self._limits.decode_hbm_tokens:
                break
            self._load.assign_decode(queue[0].request, engine)
            chosen.append((queue.popleft(), engine.engine))
        return chosen

    def _next_decode(self, queued: Queued) -> EngineLoad:
        return self._decode[queued.number % len(self._decode)]


def _interleaved(hosts: Collection[list[EngineLoad]]) -> list[EngineLoad]:
    """Every host's first engine, then every host's second, and so on."""
    return sorted((e for engines in hosts for e in engines), key=lambda e: e.engine.rank)
