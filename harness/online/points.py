"""The points of an online comparison: a policy at an arrival rate, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from harness.deployment import Deployment
from harness.experiment import Online
from harness.online.aps_search import ApsSearch
from harness.online.steady_state import Outcome, PointWatch
from harness.orders import TurnKeys
from harness.preparation import Preparation
from harness.recording import Repetition
from harness.repetitions import replay_repetition
from harness.replay import Agent
from harness.run import Run
from workloads.arrivals import poisson


async def search(run: Run, deployment: Deployment, rules: Online) -> None:
    """Every point of an online comparison: policies take turns, each at the next rate of its search."""
    policies = run.preparation.experiment.measurement.policies
    searches = {policy: ApsSearch(rules) for policy in policies}
    measured = {(r["policy"], r["agents_per_s"]): r["stopped"] for r in run.records.complete()}
    index = itertools.count()
    for round_ in itertools.count():
        rates = {policy: search.next_rate() for policy, search in searches.items()}
        if not any(rates.values()):
            break
        for policy in policies if round_ % 2 == 0 else policies[::-1]:
            if (rate := rates[policy]) is not None:
                repetition = Repetition(next(index), policy, run.limits, agents_per_s=rate)
                if (outcome := measured.get((policy, rate))) is None:
                    outcome = await _point(run, deployment, repetition, rules)
                searches[policy].record(rate, outcome)
                run.store.metadata["online"] = {p: _found(run, p, s) for p, s in searches.items()}
                run.store.save_metadata()


async def _point(run: Run, deployment: Deployment, repetition: Repetition, rules: Online) -> Outcome:
    """One policy at one arrival rate, until it violates the SLO or is steady."""
    preparation = run.preparation
    label = f"{repetition.policy} at {repetition.agents_per_s:.3g} agents/s"
    watch = PointWatch(rules)
    async with run.repetition(repetition, label, None):
        await replay_repetition(run, deployment, repetition, _arriving(preparation, repetition), watch)
        placed = [turn for turn in repetition.turns if turn.placement is not None]
        repetition.expected_turns = len(placed)
        repetition.expected_read_bytes = sum(t.hit_bytes for t in placed if t.placement and t.placement.moves)
    run.progress.end_repetition(f"{label}: {repetition.stopped}")
    assert watch.decided is not None, "agents arrive without end"
    return watch.decided


def _arriving(preparation: Preparation, repetition: Repetition) -> Iterator[Agent]:
    """Agents without end, at ``agents_per_s``; the same arrivals under every policy. Sessions are used
    again and again, with keys of their own: storage has no cache whose hit rate this could raise."""
    assert repetition.agents_per_s is not None
    sessions, seed = preparation.sessions, preparation.experiment.workload.seed
    began_s = 0.0
    for round_ in itertools.count():
        starts_s = poisson(len(sessions), repetition.agents_per_s, seed + round_)
        keys = TurnKeys(f"{repetition.written_prefix}/round{round_}")
        for start_s, plan in zip(starts_s, sessions, strict=True):
            yield Agent(began_s + float(start_s) * preparation.scale.time_dilation, plan, keys)
        began_s += float(starts_s[-1]) * preparation.scale.time_dilation


def _found(run: Run, policy: str, search: ApsSearch) -> dict[str, Any]:
    """A policy's points, as stored in metadata.json."""
    points = [r for r in run.records.complete() if r["policy"] == policy]
    return {
        "max_agents_per_s": search.highest_steady,
        "points": [
            {"agents_per_s": r["agents_per_s"], "repetition": r["repetition"], "outcome": r["stopped"]}
            for r in points
        ],
    }
