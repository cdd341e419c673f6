"""One experiment from file to records: the table of contents of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from harness.circumstances import circumstances, host_entries, now
from harness.cluster import Cluster, ModeChoice, open_cluster
from harness.control import HostError
from harness.deployment import Deployment, deploy
from harness.experiment import Experiment
from harness.orders import TurnKeys
from harness.policies import POLICIES, ClusterLoad
from harness.preparation import Preparation, as_builtins, prepare
from harness.progress import RunProgress
from harness.recording import Repetition, hosts_table, nics_table, transfers_table, turns_table
from harness.replay import Replay
from harness.run_store import RunStore, RunStoreError
from hosts.protocol import Ceiling, MeasureCeiling, Prime, Remove, StoredObject
from workloads.layout import SessionPlan

_PRIME_BATCH = 8
_PRIME_TIMEOUT_S = 120.0
_WARM_UP_AGENTS = 4


class DeadlineError(Exception):
    """The run did not end within measurement.deadline_s: exit code 3."""


def measure(experiment: Experiment, directory: Path, choice: ModeChoice, progress: RunProgress) -> RunStore:
    """Run an experiment and leave its records in ``directory``, whose store is returned:

    1. prepare: trace, model, hardware and scale; what must be read (nothing is started yet)
    2. open the run directory
    3. raise the cluster
    4. deploy an agent on every host
    5. prime the storage with every session's past
    6. measure the ceiling of every storage path
    7. replay each repetition, policies alternating
    8. save the records, whatever happened

    Raises ExperimentError, TraceError, ModelError, RunDirectoryError (input); HostError, ClusterError,
    RunStoreError, DeadlineError (testbed); KeyboardInterrupt.
    """
    preparation = prepare(experiment)
    progress.phase(_describe(preparation))
    store = RunStore.create(directory, circumstances(preparation, choice))
    store.save("experiment.toml", tomli_w.dumps(_without_none(as_builtins(experiment))).encode())
    run = _Run(preparation, store, progress)
    with _recorded(run):
        run.begin(f"raising the cluster ({choice.mode.replace('_', ' ')})")
        with open_cluster(preparation.cluster_spec, choice.mode) as cluster:
            cluster.enter_control_namespace()
            try:
                asyncio.run(_measure_on(run, cluster))
            finally:
                run.storage_log = _content(cluster.storage_log)
    return store


@dataclass(slots=True)
class _Run:
    preparation: Preparation
    store: RunStore
    progress: RunProgress
    repetitions: list[Repetition] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    storage_log: bytes = b""
    doing: str = ""
    replayed: Repetition | None = None

    def begin(self, phase: str) -> None:
        """Say what comes now, to whoever watches and for an error that it meets."""
        self.doing = phase
        self.progress.phase(phase)

    def in_flight(self) -> str:
        """What an error interrupts."""
        turns = self.replayed.in_flight() if self.replayed else ""
        return f"while {self.doing}" + (f", {turns}" if turns else "")


async def _measure_on(run: _Run, cluster: Cluster) -> None:
    preparation = run.preparation
    run.roles = {host.name: host.role for host in cluster.hosts}
    configs = {host.name: preparation.host_config(cluster, host) for host in cluster.hosts}
    deadline_s = preparation.experiment.measurement.deadline_s
    try:
        async with asyncio.timeout(deadline_s) as deadline:
            run.begin(f"deploying {len(configs)} agents")
            async with deploy(cluster, configs, run.store) as deployment:
                run.store.metadata["run_id"] = cluster.run_id
                run.store.metadata["hosts"] = host_entries(preparation, cluster, deployment.agents)
                run.store.save_metadata()
                await _prime(run, deployment)
                await _measure_ceilings(run, deployment)
                await _repeat(run, deployment)
    except HostError as error:
        raise HostError(error.host, f"{error.reason}, {run.in_flight()}") from None
    except TimeoutError:
        if not deadline.expired():
            raise
        raise DeadlineError(
            f"measurement.deadline_s: the run did not end within {deadline_s:g} s, {run.in_flight()}"
        ) from None


async def _prime(run: _Run, deployment: Deployment) -> None:
    """The storage host writes every session's past, and the objects that ceilings are measured with."""
    plans = run.preparation.plans
    objects = [TurnKeys("").prime(plan) for plan in plans if len(plan.prime_ids)]
    objects += run.preparation.ceiling_objects()
    nbytes = sum(map(_blocks, objects)) * run.preparation.scale.geometry.full_block_bytes
    run.begin(f"priming the storage with {nbytes / 1e6:.0f} MB of KV cache")
    storage = deployment.agents["storage"]
    for first in range(0, len(objects), _PRIME_BATCH):
        batch = Prime(tuple(objects[first : first + _PRIME_BATCH]))
        await deployment.guard(storage.call(batch, _PRIME_TIMEOUT_S))


async def _measure_ceilings(run: _Run, deployment: Deployment) -> None:
    """What each storage path carries when all hosts read at once and nothing else happens."""
    measurement = run.preparation.experiment.measurement
    run.begin(f"measuring storage ceilings ({measurement.ceiling_s:g} s)")
    block_bytes = run.preparation.scale.geometry.full_block_bytes
    objects = tuple((o.key, _blocks(o) * block_bytes) for o in run.preparation.ceiling_objects())
    command = MeasureCeiling(objects, measurement.ceiling_s)
    readers = [host for host, role in run.roles.items() if role != "storage"]
    answers = await deployment.guard(deployment.call_all(dict.fromkeys(readers, command)))
    run.store.metadata["ceilings"] = {
        host: {"storage_read_bytes_per_s": answer.read_bytes_per_s, "measured_at": now()}
        for host, answer in answers.items()
        if isinstance(answer, Ceiling)
    }
    run.store.save_metadata()


async def _repeat(run: _Run, deployment: Deployment) -> None:
    """A short unrecorded warm-up, then every repetition."""
    measurement, plans = run.preparation.experiment.measurement, run.preparation.plans
    run.begin("warming up")
    first_turns = [_first_turn(plan) for plan in plans[:_WARM_UP_AGENTS]]
    await _replay(run, deployment, Repetition(-1, measurement.contender), first_turns)
    order = alternating(measurement.policies, measurement.repetitions)
    for index, policy in enumerate(order):
        repetition = Repetition(index, policy)
        run.repetitions.append(repetition)
        label = f"{index + 1}/{len(order)} {policy}"
        run.doing = f"replaying {label}"
        run.progress.begin_repetition(label, run.preparation.turns)
        await _replay(run, deployment, repetition, plans)
        run.progress.end_repetition(f"{label}: JCT {repetition.jct_s:.2f} s")


async def _replay(
    run: _Run, deployment: Deployment, repetition: Repetition, plans: Sequence[SessionPlan]
) -> None:
    """One repetition; what it persisted is removed afterwards."""
    engines = run.preparation.scale.engines_per_host
    load = ClusterLoad(
        {host: engines for host, role in run.roles.items() if role == "prefill"},
        {host: engines for host, role in run.roles.items() if role == "decode"},
    )
    run.replayed = repetition
    prefix = f"repetition{repetition.index}"
    replay = Replay(
        deployment,
        POLICIES[repetition.policy],
        load,
        repetition,
        TurnKeys(prefix),
        run.preparation.gap_s,
        run.progress.advance,
    )
    await replay.run(plans)
    await deployment.guard(deployment.agents["storage"].call(Remove(prefix), _PRIME_TIMEOUT_S))


def alternating(policies: Sequence[str], repetitions: int) -> list[str]:
    """A B B A A B ...: drift of the machine falls on all policies alike."""
    rounds = (policies if i % 2 == 0 else policies[::-1] for i in range(repetitions))
    return [policy for round_ in rounds for policy in round_]


@contextmanager
def _recorded(run: _Run) -> Iterator[None]:
    """Save everything measured when the run ends, however it ends; the status says how."""
    stored = run.store.metadata
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        stored["status"] = "interrupted" if interrupted else "failed"
        stored["failure"] = f"interrupted {run.in_flight()}" if interrupted else str(error)
        try:
            _save(run)
        except RunStoreError as second:
            error.add_note(f"not all records are saved: {second}")
        raise
    stored["status"] = "measured"
    _save(run)


def _save(run: _Run) -> None:
    run.store.metadata["repetitions"] = [r.summary() for r in run.repetitions]
    run.store.save_metadata()
    run.store.save_table("turns.parquet", turns_table(run.repetitions))
    run.store.save_table("transfers.parquet", transfers_table(run.repetitions))
    run.store.save_table("telemetry/nics.parquet", nics_table(run.repetitions, run.roles))
    run.store.save_table("telemetry/hosts.parquet", hosts_table(run.repetitions, run.roles))
    if run.storage_log:
        run.store.log_file("storage", "server")
        run.store.save("logs/storage/server.log", run.storage_log)


def _describe(preparation: Preparation) -> str:
    cluster, scale = preparation.experiment.cluster, preparation.scale
    return (
        f"{preparation.experiment.name}: {len(preparation.plans)} agents, {preparation.turns} turns, "
        f"hit rate {preparation.hit_rate:.2%}, {preparation.model.name} on {cluster.prefill_hosts}P"
        f"{cluster.decode_hosts}D, storage NICs {scale.storage_nic_bytes_per_s * 8 / 1e6:.0f} Mbit/s emulated"
    )


def _first_turn(plan: SessionPlan) -> SessionPlan:
    return SessionPlan(plan.session_id, plan.prime_key, plan.prime_ids, plan.turns[:1])


def _blocks(stored: StoredObject) -> int:
    return sum(r.count for r in stored.blocks)


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def _without_none(document: Any) -> Any:
    """TOML has no null: a key that is not set is left out."""
    if isinstance(document, dict):
        return {key: _without_none(value) for key, value in document.items() if value is not None}
    return document
