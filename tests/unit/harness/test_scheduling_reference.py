"""The request scheduler against a naive one that keeps no sums, under random histories."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harness.policies import POLICIES
from harness.scheduling import (
    ClusterLoad,
    Engine,
    Limits,
    Placement,
    Policy,
    Request,
    RequestScheduler,
    RoundRobinEngines,
)
from harness.scheduling.policy import Sides

BLOCK_TOKENS = 16
MAX_HIT_BLOCKS, MAX_NEW_TOKENS, MAX_OUTPUT_TOKENS = 20, 100, 50
LARGEST = MAX_HIT_BLOCKS * BLOCK_TOKENS + MAX_NEW_TOKENS + MAX_OUTPUT_TOKENS
HOSTS = ("p0", "p1", "p2", "d0", "d1", "d2")


@dataclass
class Turn:
    """All that the naive scheduler knows of a request; ``reads``: tokens still to be read, by host."""

    number: int
    request: Request
    prefill: Engine | None = None
    prefilled: bool = False
    decode_host: str = ""
    decode: Engine | None = None
    reads: dict[str, int] = field(default_factory=dict)


class NaiveScheduler:
    """Paper 6.1 to the letter: every figure is summed from all unfinished turns when it is needed."""

    def __init__(
        self, policy: Policy, prefill: dict[str, int], decode: dict[str, int], limits: Limits
    ) -> None:
        self.policy, self.limits = policy, limits
        self.blind = policy.engines is RoundRobinEngines
        self.prefill = [Engine(host, rank) for host, count in prefill.items() for rank in range(count)]
        self.decode = [Engine(host, rank) for host, count in decode.items() for rank in range(count)]
        self.cycle = math.lcm(len(prefill), len(decode))
        self.submitted = 0
        self.turns: list[Turn] = []
        self.queues: dict[str, list[Turn]] = {host: [] for host in decode}
        self.given_to_read: Counter[str] = Counter()

    def submit(self, request: Request) -> None:
        self.turns.append(Turn(self.submitted, request))
        self.submitted += 1

    def prefill_tokens(self, engine: Engine) -> list[int]:
        return [t.request.prompt_tokens for t in self.turns if t.prefill == engine and not t.prefilled]

    def decode_tokens(self, engine: Engine) -> list[int]:
        return [t.request.tokens for t in self.turns if t.decode == engine]

    def decode_host_tokens(self, host: str) -> int:
        return sum(t.request.tokens for t in self.turns if t.decode_host == host)

    def decode_buffer_tokens(self, host: str) -> int:
        held = [t for t in self.turns if t.decode and t.decode.host == host and not t.prefilled]
        return sum(turn.request.prompt_tokens for turn in held)

    def read_queue_tokens(self, host: str) -> int:
        return sum(t.reads.get(host, 0) for t in self.turns)

    def round(self, asking: Collection[str]) -> list[tuple[Request, Placement]]:
        for turn in list(self.choose_prefill(asking)):
            turn.decode_host = (
                in_turn(self.decode, turn).host
                if self.blind
                else min(self.queues, key=self.decode_host_tokens)
            )
            self.queues[turn.decode_host].append(turn)
        placed: list[Turn] = []
        for host, queue in self.queues.items():
            while host in asking and queue and (engine := self.choose_decode(host, queue)):
                turn = queue.pop(0)
                turn.decode = engine
                placed.append(turn)
        placed.sort(key=lambda turn: turn.number)
        return [(turn.request, self.choose_path(turn)) for turn in placed]

    def choose_prefill(self, asking: Collection[str]) -> Iterator[Turn]:
        for turn in [t for t in self.turns if t.prefill is None]:
            if self.blind:
                engine = in_turn(self.prefill, turn)
                if engine.host not in asking:
                    continue
            else:
                able = {e: self.prefill_tokens(e) for e in self.prefill if e.host in asking}
                able = {e: tokens for e, tokens in able.items() if sum(tokens) <= self.limits.beta_tokens}
                alpha = self.limits.alpha_tokens
                short = {e: able[e] for e in able if self.read_queue_tokens(e.host) <= alpha[e.host]}
                in_line = sum(1 for t in self.turns if t.prefill and not t.decode)
                if not able:
                    return
                if in_line >= len(self.decode) and not self.decode_has_room_for(turn.request):
                    return
                engine = least_loaded(short or able)
            turn.prefill = engine
            yield turn

    def decode_has_room_for(self, request: Request) -> bool:
        begun = [turn.request for turn in self.turns if turn.prefill]
        prompts = [turn.request.prompt_tokens for turn in self.turns if turn.prefill and not turn.prefilled]
        hbm_tokens = sum(r.tokens for r in begun) + request.tokens
        buffer_tokens = sum(prompts) + request.prompt_tokens
        fits_buffer = buffer_tokens <= self.limits.decode_buffer_tokens * len(self.queues)
        return hbm_tokens <= self.limits.decode_hbm_tokens * len(self.decode) and (
            fits_buffer or self.policy.name == "oracle"
        )

    def choose_decode(self, host: str, queue: list[Turn]) -> Engine | None:
        if not self.blind and self.policy.name != "oracle":
            buffered = self.decode_buffer_tokens(host) + queue[0].request.prompt_tokens
            if buffered > self.limits.decode_buffer_tokens:
                return None
        running = {e: self.decode_tokens(e) for e in self.decode if e.host == host}
        free = {e: self.limits.decode_hbm_tokens - sum(tokens) for e, tokens in running.items()}
        length = queue[0].request.tokens
        if self.blind:
            engine = in_turn(self.decode, queue[0])
            return engine if free[engine] >= length else None
        fitting = [n for n in range(len(queue) + 1) if prefix_tokens(queue, n) <= sum(free.values())]
        z = 1.05 * (prefix_tokens(queue, max(fitting)) + sum(map(sum, running.values()))) / len(running)
        room = {e: tokens for e, tokens in running.items() if free[e] >= length}
        light = {e: tokens for e, tokens in room.items() if sum(tokens) + length <= z}
        if light:
            return min(light, key=lambda e: (len(light[e]), sum(light[e])))
        return least_loaded(room) if room else None

    def choose_path(self, turn: Turn) -> Placement:
        assert turn.prefill
        assert turn.decode
        hosts = turn.prefill.host, turn.decode.host
        queues = [self.read_queue_tokens(host) for host in hosts]
        rates = [self.limits.alpha_tokens[host] for host in hosts]
        given = [self.given_to_read[host] for host in hosts]
        choice = self.policy.path(turn.request, Sides(turn.number, self.cycle, *queues, *given, *rates))
        blocks = zip(hosts, (choice.prefill_blocks, choice.decode_blocks), strict=True)
        turn.reads = {host: n * BLOCK_TOKENS for host, n in blocks if n}
        self.given_to_read.update(turn.reads)
        return Placement(turn.prefill, turn.decode, *choice)


def prefix_tokens(queue: list[Turn], length: int) -> int:
    return sum(turn.request.tokens for turn in queue[:length])


def least_loaded(tokens: dict[Engine, list[int]]) -> Engine:
    return min(tokens, key=lambda engine: (sum(tokens[engine]), len(tokens[engine])))


def in_turn(engines: list[Engine], turn: Turn) -> Engine:
    """Round robin over the first engine of every host, then the second of every host, and so on."""
    in_order = sorted(engines, key=lambda engine: (engine.rank, engines.index(engine)))
    return in_order[turn.number % len(engines)]


class Histories(RuleBasedStateMachine):
    """Submissions, rounds of whoever asks, reports in any legal order; in the end everything drains."""

    @initialize(
        policy=st.sampled_from([*POLICIES.values(), POLICIES["prefill_only"].without_scheduling()]),
        shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
        alpha=st.lists(st.integers(1, 1000), min_size=6, max_size=6),
        beta=st.integers(0, 3 * LARGEST),
        hbm=st.integers(LARGEST, 5 * LARGEST),
        buffer=st.integers(LARGEST, 8 * LARGEST),
    )
    def begin(
        self,
        policy: Policy,
        shape: tuple[int, int, int, int],
        alpha: list[int],
        beta: int,
        hbm: int,
        buffer: int,
    ) -> None:
        prefill_hosts, decode_hosts, prefill_engines, decode_engines = shape
        prefill = {f"p{i}": prefill_engines for i in range(prefill_hosts)}
        decode = {f"d{i}": decode_engines for i in range(decode_hosts)}
        limits = Limits(dict(zip(HOSTS, alpha, strict=True)), beta, hbm, buffer)
        self.limits = limits
        self.load = ClusterLoad(prefill, decode)
        self.scheduler = RequestScheduler(policy, self.load, limits)
        self.naive = NaiveScheduler(policy, prefill, decode, limits)
        self.submitted = self.placed = self.dropped = 0

    @rule(
        sizes=st.lists(
            st.tuples(
                st.integers(0, MAX_HIT_BLOCKS),
                st.integers(1, MAX_NEW_TOKENS),
                st.integers(1, MAX_OUTPUT_TOKENS),
            ),
            max_size=15,
        )
    )
    def submit(self, sizes: list[tuple[int, int, int]]) -> None:
        for hit_blocks, new, output in sizes:
            request = Request(self.submitted, hit_blocks, hit_blocks * BLOCK_TOKENS, new, output)
            self.submitted += 1
            self.scheduler.submit(request)
            self.naive.submit(request)

    @rule(asking=st.sets(st.sampled_from(HOSTS)))
    def round(self, asking: Collection[str]) -> None:
        placed = self.scheduler.round(asking)
        assert placed == self.naive.round(asking)
        self.placed += len(placed)
        for request, placement in placed:
            read_blocks = placement.prefill_read_blocks + placement.decode_read_blocks
            assert read_blocks == (request.hit_blocks if placement.moves else 0)

    @rule(reports=st.integers(1, 30), choice=st.randoms(use_true_random=False))
    def reports(self, reports: int, choice: random.Random) -> None:
        for _ in range(reports):
            if running := [turn for turn in self.naive.turns if turn.decode]:
                self.report(choice.choice(running), choice)

    def report(self, turn: Turn, choice: random.Random) -> None:
        """The turn's next step: reads in any order, then prefill, then the end."""
        turn_id = turn.request.turn_id
        if turn.reads:
            host = choice.choice(sorted(turn.reads))
            self.scheduler.read_done(turn_id, host)
            del turn.reads[host]
        elif not turn.prefilled:
            self.scheduler.prefilled(turn_id)
            turn.prefilled = True
        else:
            self.scheduler.finished(turn_id)
            self.naive.turns.remove(turn)

    @precondition(lambda self: self.submitted - self.dropped > 10)
    @rule()
    def drop_waiting(self) -> None:
        waiting = [turn for turn in self.naive.turns if not turn.decode]
        assert self.scheduler.drop_waiting() == [turn.request for turn in waiting]
        self.dropped += len(waiting)
        self.naive.turns = [turn for turn in self.naive.turns if turn.decode]
        for queue in self.naive.queues.values():
            queue.clear()

    @invariant()
    def every_sum_is_right(self) -> None:
        for engines, tokens_of in (
            (self.load.prefill, self.naive.prefill_tokens),
            (self.load.decode, self.naive.decode_tokens),
        ):
            for engine in (e for group in engines.values() for e in group):
                tokens = tokens_of(engine.engine)
                assert (engine.requests, engine.tokens) == (len(tokens), sum(tokens))
        for host, queue in self.load.read_queue_tokens.items():
            assert queue == self.naive.read_queue_tokens(host)
        for host, tokens_of_host in self.load.decode_host_tokens.items():
            assert tokens_of_host == self.naive.decode_host_tokens(host)
        assert self.load.request_tokens == sum(t.request.tokens for t in self.naive.turns if t.prefill)
        assert self.load.prompt_tokens == sum(sum(self.naive.prefill_tokens(e)) for e in self.naive.prefill)
        for host, buffered in self.load.decode_buffer_tokens.items():
            assert buffered == self.naive.decode_buffer_tokens(host)

    @invariant()
    def decode_hbm_is_never_overrun(self) -> None:
        for engine in (e for group in self.load.decode.values() for e in group):
            assert engine.tokens <= self.limits.decode_hbm_tokens

    @invariant()
    def every_request_waits_or_is_placed_or_dropped(self) -> None:
        assert self.scheduler.waiting + self.placed + self.dropped == self.submitted

    def teardown(self) -> None:
        """No deadlock: rounds and reports alone get every request through."""
        if not hasattr(self, "scheduler"):
            return
        choice = random.Random(0)
        while self.naive.turns:
            self.round(HOSTS)
            running = [turn for turn in self.naive.turns if turn.decode]
            assert running, "nothing runs and nothing is placed"
            for turn in running:
                self.report(turn, choice)
        assert self.scheduler.waiting == 0
        assert self.placed + self.dropped == self.submitted
        self.every_sum_is_right()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
