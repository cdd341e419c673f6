"""Replay of one repetition: agents start at their times, each takes its turns in order (paper 7.1).

A turn arrives when the previous one of its session is done plus the recorded gap. It waits until the
request scheduler places it, in the round after its hosts' leaders have asked for work; then its decode
host gets the order, and three or four reports follow until it is done.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from harness.deployment import COMMAND_TIMEOUT_S, Deployment, everyone, first_error
from harness.host_error import HostError
from harness.online.steady_state import PointWatch
from harness.orders import TurnKeys, order_for, request_for
from harness.recording import ControlPlane, Repetition, TurnRecord
from harness.scheduling import Placement, Request, RequestScheduler
from hosts.protocol import (
    BeginRepetition,
    EndRepetition,
    Failed,
    Fetch,
    FirstToken,
    Message,
    Ping,
    ReadDone,
    RepetitionReport,
    TurnDone,
)
from workloads.layout import SessionPlan, TurnPlan

_PING_INTERVAL_S = 0.5
_PING_TIMEOUT_S = 5.0
_LAG_INTERVAL_S = 0.05
_WATCH_INTERVAL_S = 0.25
_LAST_WORDS_TIMEOUT_S = 2.0
_TURN_IDS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Agent:
    """Who replays ``plan`` from ``start_s`` on (emulated seconds since the repetition began)."""

    start_s: float
    plan: SessionPlan
    keys: TurnKeys


@dataclass(frozen=True, slots=True)
class Pace:
    """How a repetition goes: ``gap_s`` before a turn and ``fetch_interval_s`` (emulated seconds, which
    are real ones x ``time_dilation``); whether prefill is ``layerwise``; bytes of a Full Block as moved."""

    gap_s: Callable[[TurnPlan], float]
    fetch_interval_s: float
    time_dilation: float
    layerwise: bool
    full_block_bytes: int


class _Turn:
    """One turn from its arrival on, and the future its session waits on."""

    def __init__(self, plan: TurnPlan, keys: TurnKeys, request: Request, record: TurnRecord) -> None:
        self.plan, self.keys, self.request, self.record = plan, keys, request, record
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Replay:
    """Replays agents' turns through ``scheduler``; the record is `repetition`, filled as reports arrive."""

    def __init__(
        self,
        deployment: Deployment,
        scheduler: RequestScheduler,
        repetition: Repetition,
        pace: Pace,
        on_progress: Callable[[int], None] = lambda turns: None,
    ) -> None:
        self._deployment = deployment
        self._scheduler = scheduler
        self._repetition = repetition
        self._pace = pace
        self._on_progress = on_progress
        self._turns: dict[int, _Turn] = {}
        self._groups = scheduler.hosts
        self._asking: set[str] = set()
        self._all_ask = asyncio.Event()
        self._watch: PointWatch | None = None
        self._decided = asyncio.Event()

    async def run(self, agents: Iterable[Agent], watch: PointWatch | None = None) -> None:
        """Begin on every host, replay, end on every host and collect their reports.

        All ``agents``, or as many as start before ``watch`` has decided; then nothing new is placed,
        and what is under way is finished. Raises HostError naming the host that failed; what was
        recorded until then stays.
        """
        deployment, hosts = self._deployment, list(self._deployment.agents)
        deployment.on_event = self._on_event
        begin = everyone(hosts, BeginRepetition(self._pace.layerwise))
        await deployment.guard(deployment.call_all(begin))
        self._watch = watch
        self._began_at_ns = time.monotonic_ns()
        cpu_before_s = time.process_time()
        try:
            await deployment.guard(self._replay(agents))
            self._repetition.jct_s = self._now_ns() / 1e9
            self._repetition.control.cpu_s = time.process_time() - cpu_before_s
        except BaseException:
            await self._collect(_LAST_WORDS_TIMEOUT_S)
            raise
        for error in await deployment.guard(self._collect(COMMAND_TIMEOUT_S)):
            raise error
        self._repetition.complete = True

    async def _collect(self, timeout_s: float) -> list[BaseException]:
        """Take in every host's report of the repetition; the errors of those that do not give it."""
        agents = self._deployment.agents
        calls = [agent.call(EndRepetition(), timeout_s) for agent in agents.values()]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for host, answer in zip(agents, answers, strict=True):
            if isinstance(answer, RepetitionReport):
                self._repetition.reports[host] = answer
        return [answer for answer in answers if isinstance(answer, BaseException)]

    async def _replay(self, agents: Iterable[Agent]) -> None:
        control = self._repetition.control
        try:
            async with asyncio.TaskGroup() as background:
                running = [
                    background.create_task(self._schedule()),
                    background.create_task(self._watch_point()),
                    background.create_task(_measure_loop_lag(control)),
                    background.create_task(_measure_round_trips(control, self._deployment)),
                ]
                async with asyncio.TaskGroup() as sessions:
                    sessions.create_task(self._arrive(agents, sessions))
                for task in running:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None

    async def _watch_point(self) -> None:
        """Until the point of an online run is decided; then withdraw what is not placed yet."""
        if self._watch is None:
            return
        while (  # noqa: ASYNC110 - time decides, and nothing signals it
            outcome := self._watch.decide(self._real_s(self._now_ns()))
        ) is None:
            await asyncio.sleep(_WATCH_INTERVAL_S)
        self._repetition.stopped = outcome
        self._decided.set()
        for request in self._scheduler.drop_waiting():
            self._turns[request.turn_id].done.set_result(None)

    async def _arrive(self, agents: Iterable[Agent], sessions: asyncio.TaskGroup) -> None:
        """Start every agent at its time."""
        for agent in agents:
            await self._pause(agent.start_s - self._now_ns() / 1e9)
            if self._decided.is_set():
                return
            sessions.create_task(self._session(agent))

    async def _session(self, agent: Agent) -> None:
        for index, turn in enumerate(agent.plan.turns):
            if index and (gap_s := self._pace.gap_s(turn)):
                await self._pause(gap_s)
            if self._decided.is_set():
                return
            await self._turn(agent, turn)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not on when the point is decided."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._decided.wait()

    async def _turn(self, agent: Agent, plan: TurnPlan) -> None:
        """One turn, from its arrival to its last token (or until it is withdrawn)."""
        request = request_for(next(_TURN_IDS), plan)
        record = TurnRecord(
            session_id=agent.plan.session_id,
            turn=plan.turn,
            turn_id=request.turn_id,
            input_tokens=plan.input_tokens,
            hit_tokens=plan.hit_tokens,
            new_tokens=plan.new_tokens,
            output_tokens=plan.output_tokens,
            hit_bytes=len(plan.hit_ids) * self._pace.full_block_bytes,
            arrived_at_ns=self._now_ns(),
        )
        turn = self._turns[request.turn_id] = _Turn(plan, agent.keys, request, record)
        self._repetition.turns.append(record)
        self._scheduler.submit(request)
        try:
            await turn.done
        finally:
            del self._turns[request.turn_id]
        self._on_progress(1 if record.done else 0)

    async def _schedule(self) -> None:
        """A round of the request scheduler as soon as every group has asked, so that none of those that
        share a burst comes too late for it; one that is silent for two intervals does without."""
        control = self._repetition.control
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * self._pace.fetch_interval_s):
                    await self._all_ask.wait()
            began_ns = time.monotonic_ns()
            for request, placement in self._scheduler.round(self._asking):
                if turn := self._turns.get(request.turn_id):  # it is gone where the replay is being given up
                    self._dispatch(turn, placement)
            self._asking.clear()
            self._all_ask.clear()
            control.decision_s_total += (time.monotonic_ns() - began_ns) / 1e9

    def _dispatch(self, turn: _Turn, placement: Placement) -> None:
        turn.record.placement, turn.record.dispatched_at_ns = placement, self._now_ns()
        order = order_for(turn.request, placement, turn.plan, turn.keys)
        self._deployment.agents[placement.decode.host].send(order)

    def _on_event(self, host: str, event: Message) -> None:
        if isinstance(event, Fetch):
            self._asking.add(host)
            if self._asking >= self._groups:
                self._all_ask.set()
            return
        turn = self._turns.get(getattr(event, "turn_id", 0))
        if turn is None or turn.done.done():
            return
        turn_id = turn.request.turn_id
        match event:
            case ReadDone():
                self._scheduler.read_done(turn_id, host)
            case FirstToken():
                self._scheduler.prefilled(turn_id)
                turn.record.first_token_at_ns = now_ns = self._now_ns()
                if self._watch:
                    ttft_ns = now_ns - turn.record.arrived_at_ns
                    self._watch.first_token(self._real_s(now_ns), self._real_s(ttft_ns))
            case TurnDone():
                self._scheduler.finished(turn_id)
                turn.record.done_at_ns = now_ns = self._now_ns()
                turn.record.done = event
                if self._watch and turn.record.output_tokens > 1:
                    tpot_ns = event.decode_ns / (turn.record.output_tokens - 1)
                    self._watch.finished(self._real_s(now_ns), self._real_s(tpot_ns))
                turn.done.set_result(None)
            case Failed():
                error = HostError(event.host, f"{turn.record}: {event.reason}", told=True)
                turn.done.set_exception(error)

    def _now_ns(self) -> int:
        return time.monotonic_ns() - self._began_at_ns

    def _real_s(self, emulated_ns: float) -> float:
        return emulated_ns / 1e9 / self._pace.time_dilation


async def _measure_loop_lag(control: ControlPlane) -> None:
    """How late the control node's event loop wakes: its own saturation."""
    while True:
        due = time.monotonic() + _LAG_INTERVAL_S
        await asyncio.sleep(_LAG_INTERVAL_S)
        control.loop_lag_s.append(max(0.0, time.monotonic() - due))


async def _measure_round_trips(control: ControlPlane, deployment: Deployment) -> None:
    """Round trip of a control message to each host in turn; one that does not answer is lost."""
    for agent in itertools.cycle(deployment.agents.values()):
        await asyncio.sleep(_PING_INTERVAL_S)
        began_at = time.monotonic()
        try:
            await agent.call(Ping(), _PING_TIMEOUT_S)
        except HostError as error:
            agent.disconnect(error.reason)
            return
        control.message_rtt_s.append(time.monotonic() - began_at)
