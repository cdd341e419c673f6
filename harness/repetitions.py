"""Repetitions: an unrecorded warm-up, and those of an offline comparison (paper 7.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.deployment import Deployment
from harness.online.steady_state import PointWatch
from harness.orders import TurnKeys, blocks_of
from harness.policies import POLICIES
from harness.recording import Repetition
from harness.replay import Agent, Pace, Replay
from harness.run import Run
from harness.scheduling import ClusterLoad, RequestScheduler
from hosts.protocol import Remove
from workloads.layout import SessionPlan

_WARM_UP_AGENTS = 4
_REMOVE_TIMEOUT_S = 120.0


async def warm_up(run: Run, deployment: Deployment) -> None:
    """What all repetitions have in common, and a few turns that are not recorded."""
    async with run.phase("warm_up", "warming up"):
        for turn in (turn for plan in run.preparation.sessions for turn in plan.turns):
            blocks_of(turn)
        repetition = Repetition(-1, run.preparation.experiment.measurement.contender, run.limits)
        keys = TurnKeys(repetition.written_prefix)
        first_turns = map(_first_turn, run.preparation.sessions[:_WARM_UP_AGENTS])
        agents = [Agent(0.0, plan, keys) for plan in first_turns]
        await replay_repetition(run, deployment, repetition, agents)


async def repeat(run: Run, deployment: Deployment) -> None:
    """Every repetition of an offline comparison that is not recorded yet."""
    measurement, preparation = run.preparation.experiment.measurement, run.preparation
    order = alternating(measurement.policies, measurement.repetitions)
    starting = zip(preparation.starts_s(), preparation.sessions, strict=True)
    arrivals = sorted(starting, key=lambda arrival: arrival[0])
    recorded = {summary["repetition"] for summary in run.records.complete()}
    for index, policy in enumerate(order):
        if index in recorded:
            continue
        oracle = preparation.experiment.variant(policy).policy == "oracle"
        repetition = Repetition(
            index,
            policy,
            run.limits,
            expected_read_bytes=0 if oracle else preparation.read_bytes,
            expected_turns=preparation.turns,
        )
        keys = TurnKeys(repetition.written_prefix)
        agents = [Agent(start_s, plan, keys) for start_s, plan in arrivals]
        label = f"{index + 1}/{len(order)} {policy}"
        async with run.repetition(repetition, label, preparation.turns):
            await replay_repetition(run, deployment, repetition, agents)
        run.progress.end_repetition(f"{label}: JCT {repetition.jct_s:.2f} s")


def alternating(policies: Sequence[str], repetitions: int) -> list[str]:
    """A B B A A B ...: drift of the machine falls on all policies alike."""
    rounds = (policies if i % 2 == 0 else policies[::-1] for i in range(repetitions))
    return [policy for round_ in rounds for policy in round_]


async def replay_repetition(
    run: Run,
    deployment: Deployment,
    repetition: Repetition,
    agents: Iterable[Agent],
    watch: PointWatch | None = None,
) -> None:
    """One repetition; what it persisted is removed afterwards."""
    preparation, scale = run.preparation, run.preparation.scale
    engines = {
        role: {host: scale.engines_per_host for host, of in run.roles.items() if of == role}
        for role in ("prefill", "decode")
    }
    variant = preparation.experiment.variant(repetition.policy)
    policy = POLICIES[variant.policy]
    scheduler = RequestScheduler(
        policy if variant.scheduling else policy.without_scheduling(),
        ClusterLoad(engines["prefill"], engines["decode"]),
        run.limits,
    )
    pace = Pace(
        gap_s=preparation.gap_s,
        fetch_interval_s=preparation.fetch_interval_s,
        time_dilation=scale.time_dilation,
        layerwise=variant.layerwise,
        full_block_bytes=scale.geometry.full_block_bytes,
    )
    await Replay(deployment, scheduler, repetition, pace, run.progress.advance).run(agents, watch)
    client = deployment.agents[run.storage_clients[0]]
    await deployment.guard(client.call(Remove(repetition.written_prefix), _REMOVE_TIMEOUT_S))


def _first_turn(plan: SessionPlan) -> SessionPlan:
    return SessionPlan(plan.session_id, plan.prime_key, plan.prime_ids, plan.turns[:1])
