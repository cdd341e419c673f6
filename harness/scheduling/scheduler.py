"""The request scheduler: serves all groups that have asked, together, in one round (paper 6.1).

The engines of one host are a group, whose leader asks regularly. Prefill engines are chosen over all
prefill groups that ask together, so that a burst is not swallowed by whoever asks first. A request
gets its prefill engine before decode HBM: what holds HBM never waits for a prefill engine, and so
whatever waits for HBM gets it in the end.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from operator import itemgetter

from harness.experiment import ExperimentError
from harness.scheduling.engines import Queued, Waiting
from harness.scheduling.load import ClusterLoad, Engine, Limits, Placement, Request
from harness.scheduling.policy import Policy, Sides, read_nowhere


class RequestScheduler:
    """Places requests under ``policy``; ``load`` is kept up to date with what is placed and reported."""

    def __init__(self, policy: Policy, load: ClusterLoad, limits: Limits) -> None:
        self._policy = policy
        self._load = load
        if policy.path is read_nowhere:
            limits = replace(limits, decode_buffer_tokens=sys.maxsize)  # what does not move needs no buffer
        self._limits = limits
        self._engines = policy.engines(load, limits)
        self._cycle = math.lcm(len(load.prefill), len(load.decode))
        self._submitted = 0
        self._waiting: deque[Waiting] = deque()
        self._decode_queues: dict[str, deque[Queued]] = {host: deque() for host in load.decode}

    @property
    def hosts(self) -> frozenset[str]:
        """Whose leaders ask for work."""
        return frozenset(self._load.read_queue_tokens)

    @property
    def waiting(self) -> int:
        """Requests submitted and not yet placed."""
        return len(self._waiting) + sum(map(len, self._decode_queues.values()))

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises ExperimentError for one that no decode engine or DE buffer could ever hold.
        """
        for what, tokens, most in (
            ("decode engine's HBM", request.tokens, self._limits.decode_hbm_tokens),
            ("decode host's buffer", request.prompt_tokens, self._limits.decode_buffer_tokens),
        ):
            if tokens > most:
                raise ExperimentError(
                    f"turn {request.turn_id}: found {tokens} tokens of KV, expected at most {most}, which is "
                    f"what a {what} holds; replay shorter contexts or give the hosts more memory"
                )
        self._waiting.append(Waiting(self._submitted, request))
        self._submitted += 1

    def round(self, asking: Collection[str]) -> list[tuple[Request, Placement]]:
        """Serve the hosts that ask, prefill and decode alike; what is placed, in the order of placing.

        1. choose prefill engines of the asking hosts
        2. choose a decode host for each request that got one
        3. choose engines of the asking decode hosts
        4. choose the path in the order of submission, by read queues that count what was placed before:
           host by host, the first one's requests would always find the prefill hosts' queues shortest
        """
        asking = frozenset(asking)
        for queued in self._engines.assign_prefill(self._waiting, asking):
            self._decode_queues[self._engines.assign_decode_host(queued)].append(queued)
        chosen = [
            choice
            for host, queue in self._decode_queues.items()
            if queue and host in asking
            for choice in self._engines.assign_decode(host, queue)
        ]
        return [
            (queued.request, self._place(queued, decode))
            for queued, decode in sorted(chosen, key=lambda choice: choice[0].number)
        ]

    def _place(self, queued: Queued, decode: Engine) -> Placement:
        request, prefill = queued.request, queued.prefill
        read_queue, read_rate = self._load.read_queue_tokens, self._limits.alpha_tokens
        sides = Sides(
            number=queued.number,
            cycle=self._cycle,
            prefill_queue_tokens=read_queue[prefill.host],
            decode_queue_tokens=read_queue[decode.host],
            prefill_read_tokens=self._load.read_tokens[prefill.host],
            decode_read_tokens=self._load.read_tokens[decode.host],
            prefill_read_rate=read_rate[prefill.host],
            decode_read_rate=read_rate[decode.host],
        )
        placement = Placement(prefill, decode, *self._policy.path(request, sides))
        self._load.assign_reads(request, placement)
        return placement

    def read_done(self, turn_id: int, host: str) -> None:
        """``host`` has its share of the hit in its buffer."""
        self._load.read_done(turn_id, host)

    def prefilled(self, turn_id: int) -> None:
        """The prefill engine is done with the turn."""
        self._load.prefilled(turn_id)

    def finished(self, turn_id: int) -> None:
        """The turn is done; its decode HBM is free."""
        self._load.finished(turn_id)

    def drop_waiting(self) -> list[Request]:
        """Withdraw all that is not placed, and return it in the order of submission."""
        queued = [(q.number, q.request) for queue in self._decode_queues.values() for q in queue]
        for _, request in queued:
            self._load.finished(request.turn_id)
        dropped = sorted([*queued, *self._waiting], key=itemgetter(0))
        self._waiting.clear()
        for queue in self._decode_queues.values():
            queue.clear()
        return [request for _, request in dropped]
