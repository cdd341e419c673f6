"""A repetition against scripted hosts: what is dispatched when, what is recorded, and how it ends."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace
from scripted_hosts import Hosts, run, turn_done, well

from harness.experiment import ExperimentError, Online
from harness.host_error import HostError
from harness.online.steady_state import PointWatch
from harness.orders import TurnKeys
from harness.policies import POLICIES
from harness.recording import Repetition
from harness.replay import Agent, Pace, Replay
from harness.scheduling import ClusterLoad, Limits, RequestScheduler
from hosts.protocol import Failed, FirstToken, Message, TurnOrder
from workloads.agents import agents_for
from workloads.layout import SessionPlan, TurnPlan, plan_replay
from workloads.synthesis import synthesize

PLENTY = 10**9
FULL_BLOCK_BYTES = 1000
TRACE = synthesize("paper-32k", 8, 1)
PLANS = plan_replay(agents_for(TRACE, 4, 3, "middle", 1)).sessions
LARGEST = max(turn.hit_tokens + turn.new_tokens + turn.output_tokens for plan in PLANS for turn in plan.turns)
KEYS = TurnKeys("repetition0")


@dataclass
class Trial:
    """A replay under ``policy`` on ``hosts``, all of which ask for work unless told otherwise."""

    hosts: Hosts = field(default_factory=Hosts)
    policy: str = "dual_path"
    decode_hbm_tokens: int = PLENTY
    gap_s: Callable[[TurnPlan], float] = lambda turn: 0.0
    time_dilation: float = 1.0
    alpha_tokens: float | None = PLENTY
    progress: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hosts.asking.update(self.hosts.names)
        prefill, decode = ({h: 2 for h in self.hosts.names if h[0] == side} for side in "pd")
        alpha = {} if self.alpha_tokens is None else dict.fromkeys((*prefill, *decode), self.alpha_tokens)
        limits = Limits(alpha, PLENTY, self.decode_hbm_tokens, PLENTY)
        self.load = ClusterLoad(prefill, decode)
        self.scheduler = RequestScheduler(POLICIES[self.policy], self.load, limits)
        self.repetition = Repetition(0, self.policy, limits)

    async def replay(
        self,
        agents: Iterable[Agent],
        watch: PointWatch | None = None,
        meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        pace = Pace(self.gap_s, 0.001, self.time_dilation, True, FULL_BLOCK_BYTES)
        with self.hosts.attached() as deployment:
            replay = Replay(deployment, self.scheduler, self.repetition, pace, self.progress.append)
            other = asyncio.create_task(meanwhile()) if meanwhile else None
            try:
                await replay.run(agents, watch)
            finally:
                if other:
                    other.cancel()

    @property
    def is_idle(self) -> bool:
        """Nothing is held by anybody any more."""
        engines = [e for group in (*self.load.prefill.values(), *self.load.decode.values()) for e in group]
        queues = [*self.load.read_queue_tokens.values(), *self.load.decode_host_tokens.values()]
        return (
            self.scheduler.waiting == 0
            and not any(queues)
            and all((e.requests, e.tokens) == (0, 0) for e in engines)
        )


def at_once(plans: Iterable[SessionPlan] = PLANS) -> list[Agent]:
    return [Agent(0.0, plan, KEYS) for plan in plans]


def without_end(every_s: float) -> Iterator[Agent]:
    for index, plan in enumerate(itertools.cycle(PLANS)):
        yield Agent(index * every_s, plan, KEYS)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_turn_is_dispatched_once_and_after_the_one_before(policy: str) -> None:
    trial = Trial(Hosts(("p0", "p1", "d0", "d1")), policy)
    run(trial.replay(at_once()))
    turns, orders = trial.repetition.turns, trial.hosts.orders
    planned = Counter((plan.session_id, turn.turn) for plan in PLANS for turn in plan.turns)
    assert Counter((record.session_id, record.turn) for record in turns) == planned
    assert sorted(order.turn_id for _, _, order in orders) == sorted(record.turn_id for record in turns)
    where = {order.turn_id: (order.prefill_host, host) for _, host, order in orders}
    for record in turns:
        assert record.placement is not None
        assert record.done is not None
        assert where[record.turn_id] == (record.placement.prefill.host, record.placement.decode.host)
        assert (
            record.arrived_at_ns <= record.dispatched_at_ns <= record.first_token_at_ns <= record.done_at_ns
        )
    for plan in PLANS:
        of_session = [record for record in turns if record.session_id == plan.session_id]
        assert [record.turn for record in of_session] == [turn.turn for turn in plan.turns]
        assert all(before.done_at_ns <= after.arrived_at_ns for before, after in pairwise(of_session))
    assert trial.is_idle
    assert sum(trial.progress) == len(turns)


def test_a_repetition_begins_and_ends_on_every_host_and_keeps_their_reports() -> None:
    trial = Trial(Hosts(("storage", "p0", "d0")))
    run(trial.replay(at_once()))
    assert sorted(trial.hosts.began) == sorted(trial.hosts.ended) == ["d0", "p0", "storage"]
    assert trial.hosts.layerwise == {True}
    assert set(trial.repetition.reports) == {"storage", "p0", "d0"}
    assert (trial.repetition.complete, trial.repetition.stopped) == (True, "all_done")
    last_ns = max(record.done_at_ns for record in trial.repetition.turns)
    assert last_ns / 1e9 <= trial.repetition.jct_s <= last_ns / 1e9 + 1


def test_a_record_says_what_the_plan_does() -> None:
    trial = Trial()
    run(trial.replay(at_once()))
    plans = {(plan.session_id, turn.turn): turn for plan in PLANS for turn in plan.turns}
    for record in trial.repetition.turns:
        turn = plans[record.session_id, record.turn]
        assert (record.input_tokens, record.hit_tokens) == (turn.input_tokens, turn.hit_tokens)
        assert (record.new_tokens, record.output_tokens) == (turn.new_tokens, turn.output_tokens)
        assert record.hit_bytes == len(turn.hit_ids) * FULL_BLOCK_BYTES


def test_gaps_and_starts_are_kept() -> None:
    gap_s, starts_s = 0.03, (0.0, 0.02, 0.05, 0.05)
    trial = Trial(gap_s=lambda turn: gap_s)
    run(trial.replay(Agent(start_s, plan, KEYS) for start_s, plan in zip(starts_s, PLANS, strict=True)))
    for plan, start_s in zip(PLANS, starts_s, strict=True):
        first, *later = [r for r in trial.repetition.turns if r.session_id == plan.session_id]
        assert start_s * 1e9 <= first.arrived_at_ns < start_s * 1e9 + 0.5e9
        for before, after in pairwise([first, *later]):
            assert gap_s * 1e9 <= after.arrived_at_ns - before.done_at_ns < gap_s * 1e9 + 0.5e9


def test_nothing_is_dispatched_before_a_host_asks_and_one_fetch_is_one_round() -> None:
    trial = Trial()
    trial.hosts.asking.clear()
    dispatched = []

    async def ask() -> None:
        for _ in PLANS[0].turns:
            await asyncio.sleep(0.05)
            dispatched.append(len(trial.hosts.orders))
            trial.hosts.fetch_once()

    run(trial.replay(at_once(PLANS[:1]), meanwhile=ask))
    assert dispatched == [0, 1, 2]
    assert len(trial.hosts.orders) == 3


def test_a_decode_host_that_does_not_ask_gets_nothing() -> None:
    trial = Trial(Hosts(("p0", "d0", "d1")))
    trial.hosts.asking.remove("d1")
    to_d1 = []

    async def ask_later() -> None:
        await asyncio.sleep(0.1)
        to_d1.append([host for _, host, _ in trial.hosts.orders].count("d1"))
        trial.hosts.asking.add("d1")

    run(trial.replay(at_once(), meanwhile=ask_later))
    assert to_d1 == [0]
    assert {host for _, host, _ in trial.hosts.orders} == {"d0", "d1"}
    assert trial.repetition.complete


def test_reports_free_what_the_turn_no_longer_needs() -> None:
    held: list[tuple[str, int, int]] = []

    async def watched(hosts: Hosts, host: str, order: TurnOrder) -> AsyncIterator[tuple[str, Message]]:
        load = trial.load

        def note(stage: str) -> None:
            prefill = sum(engine.tokens for group in load.prefill.values() for engine in group)
            held.append((stage, sum(load.read_queue_tokens.values()), prefill))

        note("ordered")
        async for reporter, event in well(hosts, host, order):
            yield reporter, event
            note(type(event).__name__)

    trial = Trial(Hosts(serve=watched))
    run(trial.replay(at_once(PLANS[:1])))
    expected = []
    for turn in PLANS[0].turns:
        assert turn.hit_tokens
        prompt = turn.hit_tokens + turn.new_tokens
        expected += [("ordered", turn.hit_tokens, prompt), ("ReadDone", 0, prompt)]
        expected += [("FirstToken", 0, 0), ("TurnDone", 0, 0)]
    assert held == expected


async def fails_at_the_second(
    hosts: Hosts, host: str, order: TurnOrder
) -> AsyncIterator[tuple[str, Message]]:
    if len(hosts.orders) == 2:
        yield host, Failed(host, "storage: no such object", order.turn_id)
    else:
        async for reported in well(hosts, host, order):
            yield reported


def test_a_turn_that_fails_is_named_and_what_was_recorded_stays() -> None:
    trial = Trial(Hosts(serve=fails_at_the_second))
    with pytest.raises(HostError) as error:
        run(trial.replay(at_once(PLANS[:1])))
    session, turn = PLANS[0].session_id, PLANS[0].turns[1].turn
    assert str(error.value) == f"host d0: session {session} turn {turn} (p0->d0): storage: no such object"
    assert [record.done is not None for record in trial.repetition.turns] == [True, False]
    assert set(trial.repetition.reports) == {"p0", "d0"}
    assert not trial.repetition.complete
    assert f"1 turns in flight: session {session} turn {turn} (p0->d0)" == trial.repetition.in_flight()


async def its_prefill_host_fails(
    hosts: Hosts, host: str, order: TurnOrder
) -> AsyncIterator[tuple[str, Message]]:
    yield host, Failed(order.prefill_host, "storage: no such object", order.turn_id)


def test_a_turn_that_fails_on_its_prefill_host_names_that() -> None:
    with pytest.raises(
        HostError, match=r"host p0: session .* turn .* \(p0->d0\): storage: no such object"
    ) as error:
        run(Trial(Hosts(serve=its_prefill_host_fails)).replay(at_once(PLANS[:1])))
    assert error.value.told


async def never(hosts: Hosts, host: str, order: TurnOrder) -> AsyncIterator[tuple[str, Message]]:
    yield host, FirstToken(order.turn_id)
    hosts.lose("p0")
    await asyncio.Event().wait()


def test_a_lost_host_ends_the_repetition() -> None:
    trial = Trial(Hosts(serve=never))
    with pytest.raises(HostError, match=r"^host p0: its control stream broke$"):
        run(trial.replay(at_once(PLANS[:1])))
    assert set(trial.repetition.reports) == {"d0"}


async def stuttering(hosts: Hosts, host: str, order: TurnOrder) -> AsyncIterator[tuple[str, Message]]:
    """Everything twice, and about a turn that nobody knows."""
    async for reporter, event in well(hosts, host, order):
        yield reporter, event
        yield reporter, event
        yield reporter, turn_done(10**9)


def test_reports_about_turns_that_are_over_change_nothing() -> None:
    trial = Trial(Hosts(serve=stuttering))
    run(trial.replay(at_once()))
    assert trial.repetition.complete
    assert trial.is_idle
    assert len(trial.progress) == len(trial.repetition.turns)


def test_a_host_that_cannot_report_is_named_and_the_others_reports_stay() -> None:
    trial = Trial(Hosts(("p0", "d0"), failing={"p0"}))
    with pytest.raises(HostError, match=r"^host p0: EndRepetition: out of memory$"):
        run(trial.replay(at_once(PLANS[:1])))
    assert set(trial.repetition.reports) == {"d0"}
    assert not trial.repetition.complete


def test_an_error_of_the_request_scheduler_surfaces() -> None:
    """Here: it has no limits of the hosts."""
    trial = Trial(alpha_tokens=None)
    with pytest.raises(KeyError, match="p0"):
        run(trial.replay(at_once()))
    assert set(trial.repetition.reports) == {"p0", "d0"}
    assert not trial.repetition.complete


def test_a_request_that_no_engine_can_hold_surfaces() -> None:
    trial = Trial(decode_hbm_tokens=100)
    with pytest.raises(ExperimentError, match="tokens of KV, expected at most 100"):
        run(trial.replay(at_once()))


def test_an_error_of_the_arrivals_surfaces() -> None:
    def agents() -> Iterator[Agent]:
        yield at_once()[0]
        raise ValueError("no more agents")

    with pytest.raises(ValueError, match="no more agents"):
        run(Trial().replay(agents()))


RULES = Online(agents_per_s=(1.0,), window_s=0.1, lookback_s=0.1, limit_s=0.3)


def test_a_decided_point_withdraws_what_waits_and_finishes_what_is_under_way() -> None:
    # One request at a time on each of the two decode engines: the others wait, for HBM.
    trial = Trial(Hosts(service_s=0.1), decode_hbm_tokens=LARGEST)
    watch = PointWatch(replace(RULES, slo_ttft_s=0.01))
    run(trial.replay(without_end(0.02), watch))
    turns = trial.repetition.turns
    assert (trial.repetition.stopped, trial.repetition.complete) == ("ttft_slo", True)
    placed = [record for record in turns if record.placement]
    withdrawn = [record for record in turns if not record.placement]
    assert placed
    assert withdrawn
    assert all(record.done for record in placed)
    assert not any(record.done for record in withdrawn)
    assert len(trial.hosts.orders) == len(placed)
    assert trial.is_idle
    assert sum(trial.progress) == len(placed)
    assert trial.repetition.in_flight() == ""


class Heard(PointWatch):
    """A watch that keeps what it is told, in the order of telling."""

    def __init__(self, rules: Online) -> None:
        super().__init__(rules)
        self.ttft: list[tuple[float, float]] = []
        self.tpot: list[tuple[float, float]] = []

    def first_token(self, at_s: float, ttft_s: float) -> None:
        self.ttft.append((at_s, ttft_s))
        super().first_token(at_s, ttft_s)

    def finished(self, at_s: float, tpot_s: float) -> None:
        self.tpot.append((at_s, tpot_s))
        super().finished(at_s, tpot_s)


@pytest.mark.parametrize("dilation", [1.0, 100.0])
def test_a_point_is_judged_by_what_is_recorded_in_real_seconds(dilation: float) -> None:
    trial = Trial(Hosts(service_s=0.05), time_dilation=dilation, decode_hbm_tokens=2 * LARGEST)
    watch = Heard(replace(RULES, window_s=0.1 / dilation, lookback_s=0.1 / dilation, limit_s=0.3 / dilation))
    run(trial.replay(without_end(0.02), watch))
    turns = [record for record in trial.repetition.turns if record.done]
    ttft = [(r.first_token_at_ns, r.first_token_at_ns - r.arrived_at_ns) for r in turns]
    tpot = [(r.done_at_ns, 0.025e9 / (r.output_tokens - 1)) for r in turns if r.output_tokens > 1]
    assert len(tpot) > 1
    for told, recorded in ((watch.ttft, ttft), (watch.tpot, tpot)):
        real = [(at_ns / 1e9 / dilation, value_ns / 1e9 / dilation) for at_ns, value_ns in sorted(recorded)]
        assert told == [pytest.approx(pair) for pair in real]
    assert trial.repetition.jct_s < 5


def test_tokens_that_come_too_slowly_are_a_violation_too() -> None:
    trial = Trial(Hosts(service_s=0.1))
    watch = PointWatch(replace(RULES, slo_ttft_s=100, slo_tpot_s=1e-6))
    run(trial.replay(without_end(0.02), watch))
    assert trial.repetition.stopped == "tpot_slo"


@pytest.mark.parametrize("gap_s", [0.0, 60.0])
def test_a_decided_point_waits_for_nobody_who_is_still_to_come(gap_s: float) -> None:
    """Neither for the next agent nor for a turn after a long gap."""
    trial = Trial(gap_s=lambda turn: gap_s)
    run(trial.replay(without_end(60.0), PointWatch(RULES)))
    assert trial.repetition.stopped in ("time_limit", "steady")
    assert trial.repetition.complete
    assert trial.repetition.jct_s < 5
