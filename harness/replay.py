"""Closed-loop replay of one repetition: n agents start together, each takes its turns in order (paper 7.1).

A turn arrives when the previous one of its session is done plus the recorded gap, is placed by the
policy at once, sent to its decode host, and followed by three reports until it is done.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

from harness.control import HostError
from harness.deployment import COMMAND_TIMEOUT_S, Deployment, everyone
from harness.orders import TurnKeys, order_for, request_for
from harness.policies import ClusterLoad, Placement, Policy, Request
from harness.recording import ControlPlane, Repetition, TurnRecord
from hosts.protocol import (
    BeginRepetition,
    EndRepetition,
    Failed,
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
_LAST_WORDS_TIMEOUT_S = 2.0
_TURN_IDS = itertools.count(1)


class _InFlight:
    """One dispatched turn and the future its session waits on."""

    def __init__(self, request: Request, placement: Placement, record: TurnRecord) -> None:
        self.request, self.placement, self.record = request, placement, record
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Replay:
    """Replays ``plans`` under ``policy``; the record is `repetition`, filled as reports arrive."""

    def __init__(
        self,
        deployment: Deployment,
        policy: Policy,
        load: ClusterLoad,
        repetition: Repetition,
        keys: TurnKeys,
        gap: Callable[[TurnPlan], float],
        on_progress: Callable[[int], None] = lambda turns: None,
    ) -> None:
        self._deployment = deployment
        self._policy = policy
        self._load = load
        self._repetition = repetition
        self._keys = keys
        self._gap = gap
        self._on_progress = on_progress
        self._in_flight: dict[int, _InFlight] = {}

    async def run(self, plans: Sequence[SessionPlan]) -> None:
        """Begin on every host, replay every session, end on every host and collect their reports.

        Raises HostError naming the host that failed; what was recorded until then stays.
        """
        deployment, hosts = self._deployment, list(self._deployment.agents)
        await deployment.call_all(everyone(hosts, BeginRepetition()))
        deployment.on_event = self._on_event
        self._began_at_ns = time.monotonic_ns()
        cpu_before_s = time.process_time()
        try:
            await deployment.guard(self._sessions(plans))
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

    async def _sessions(self, plans: Sequence[SessionPlan]) -> None:
        control = self._repetition.control
        probes = [
            asyncio.create_task(_measure_loop_lag(control)),
            asyncio.create_task(_measure_round_trips(control, self._deployment)),
        ]
        sessions = [asyncio.create_task(self._session(plan)) for plan in plans]
        try:
            await asyncio.gather(*sessions)
        finally:
            for task in (*sessions, *probes):
                task.cancel()
            await asyncio.gather(*sessions, *probes, return_exceptions=True)

    async def _session(self, plan: SessionPlan) -> None:
        for index, turn in enumerate(plan.turns):
            if index and (gap_s := self._gap(turn)):
                await asyncio.sleep(gap_s)
            await self._turn(plan, turn)

    async def _turn(self, plan: SessionPlan, turn: TurnPlan) -> None:
        arrived_at_ns = self._now_ns()
        request = request_for(next(_TURN_IDS), turn)
        placement = self._policy(request, self._load)
        self._load.assign(request, placement)
        order = order_for(request, placement, plan, turn, self._keys)
        record = TurnRecord(
            session_id=plan.session_id,
            turn=turn.turn,
            turn_id=request.turn_id,
            placement=placement,
            input_tokens=turn.input_tokens,
            hit_tokens=turn.hit_tokens,
            new_tokens=turn.new_tokens,
            output_tokens=turn.output_tokens,
            arrived_at_ns=arrived_at_ns,
            dispatched_at_ns=self._now_ns(),
        )
        self._repetition.control.decision_s_total += (record.dispatched_at_ns - arrived_at_ns) / 1e9
        self._repetition.turns.append(record)
        in_flight = self._in_flight[request.turn_id] = _InFlight(request, placement, record)
        self._deployment.agents[placement.decode.host].send(order)
        await in_flight.done
        del self._in_flight[request.turn_id]
        self._on_progress(1)

    def _on_event(self, host: str, event: Message) -> None:
        turn = self._in_flight.get(getattr(event, "turn_id", 0))
        if turn is None or turn.done.done():
            return
        match event:
            case ReadDone():
                self._load.read_done(turn.request, turn.placement)
            case FirstToken():
                self._load.prefilled(turn.request, turn.placement)
                turn.record.first_token_at_ns = self._now_ns()
            case TurnDone():
                self._load.finished(turn.request, turn.placement)
                turn.record.done_at_ns = self._now_ns()
                turn.record.done = event
                turn.done.set_result(None)
            case Failed():
                turn.done.set_exception(HostError(host, f"{turn.record}: {event.reason}"))

    def _now_ns(self) -> int:
        return time.monotonic_ns() - self._began_at_ns


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
