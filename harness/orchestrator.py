"""One experiment from file to records: the table of contents of a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from harness.circumstances import circumstances, host_entries, now
from harness.cluster import Cluster, ModeChoice, open_cluster
from harness.deployment import Deployment, deploy
from harness.experiment import Experiment, to_toml
from harness.host_error import HostError
from harness.interrupts import one_interrupt
from harness.online.points import search
from harness.orders import prime_objects
from harness.preparation import Preparation, prepare
from harness.progress import RunProgress
from harness.repetitions import repeat, warm_up
from harness.run import Run
from harness.run_store import RunStore
from hosts.protocol import Ceiling, MeasureCeiling, Prime, StoredObject

_PRIME_BATCH = 8
_PRIME_TIMEOUT_S = 120.0


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
    7. replay each repetition, policies alternating; or, online, each arrival rate
    8. save the records, whatever happened

    Raises ExperimentError, TraceError, ModelError, RunDirectoryError (input); HostError, ClusterError,
    RunStoreError, DeadlineError (testbed); KeyboardInterrupt.
    """
    preparation = prepare(experiment)
    progress.phase(_describe(preparation))
    store = RunStore.create(directory, circumstances(preparation, choice))
    store.save("experiment.toml", to_toml(experiment).encode())
    run = Run(preparation, store, progress)
    with run.recorded():
        run.begin(f"raising the cluster ({choice.mode.replace('_', ' ')})")
        with open_cluster(preparation.cluster_spec, choice.mode, cache=experiment.storage.cache) as cluster:
            cluster.enter_control_namespace()
            try:
                asyncio.run(_measure_on(run, cluster))
            finally:
                run.storage_log = _content(cluster.storage_log)
    return store


async def _measure_on(run: Run, cluster: Cluster) -> None:
    with one_interrupt():
        await _measure_phases(run, cluster)


async def _measure_phases(run: Run, cluster: Cluster) -> None:
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
                await warm_up(run, deployment)
                if preparation.experiment.online is None:
                    await repeat(run, deployment)
                else:
                    await search(run, deployment, preparation.experiment.online)
    except HostError as error:
        raise HostError(error.host, f"{error.reason}, {run.in_flight()}") from None
    except TimeoutError:
        if not deadline.expired():
            raise
        raise DeadlineError(
            f"measurement.deadline_s: the run did not end within {deadline_s:g} s, {run.in_flight()}"
        ) from None


async def _prime(run: Run, deployment: Deployment) -> None:
    """The storage host writes every session's past, and the objects that ceilings are measured with."""
    plan = run.preparation.plan
    objects = [*prime_objects(plan.sessions, plan.shared), *run.preparation.ceiling_objects()]
    nbytes = sum(map(_blocks, objects)) * run.preparation.scale.geometry.full_block_bytes
    run.begin(f"priming the storage with {nbytes / 1e6:.0f} MB of KV cache")
    storage = deployment.agents["storage"]
    for first in range(0, len(objects), _PRIME_BATCH):
        batch = Prime(tuple(objects[first : first + _PRIME_BATCH]))
        await deployment.guard(storage.call(batch, _PRIME_TIMEOUT_S))


async def _measure_ceilings(run: Run, deployment: Deployment) -> None:
    """What each storage path carries when all hosts read at once and nothing else happens."""
    measurement = run.preparation.experiment.measurement
    run.begin(f"measuring storage ceilings ({measurement.ceiling_s:g} s)")
    block_bytes = run.preparation.scale.geometry.full_block_bytes
    objects = tuple((o.key, _blocks(o) * block_bytes) for o in run.preparation.ceiling_objects())
    command = MeasureCeiling(objects, measurement.ceiling_s)
    readers = [host for host, role in run.roles.items() if role != "storage"]
    answers = await deployment.guard(deployment.call_all(dict.fromkeys(readers, command)))
    ceilings = {h: answer.read_bytes_per_s for h, answer in answers.items() if isinstance(answer, Ceiling)}
    run.limits = run.preparation.limits(ceilings)
    run.store.metadata["ceilings"] = {
        host: {"storage_read_bytes_per_s": rate, "measured_at": now()} for host, rate in ceilings.items()
    }
    run.store.save_metadata()


def _describe(preparation: Preparation) -> str:
    cluster, scale = preparation.experiment.cluster, preparation.scale
    return (
        f"{preparation.experiment.name}: {len(preparation.sessions)} agents, {preparation.turns} turns, "
        f"hit rate {preparation.hit_rate:.2%}, {preparation.model.name} on {cluster.prefill_hosts}P"
        f"{cluster.decode_hosts}D, storage NICs {scale.storage_nic_bytes_per_s * 8 / 1e6:.0f} Mbit/s emulated"
    )


def _blocks(stored: StoredObject) -> int:
    return sum(r.count for r in stored.blocks)


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""
