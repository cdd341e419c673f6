"""One experiment from file to records: the table of contents of a run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.circumstances import circumstances, host_entries
from harness.control import AgentHandle
from harness.deployment import Deployment, all_of, deploy
from harness.experiment import Experiment, to_toml
from harness.host_error import HostError
from harness.interrupts import one_interrupt
from harness.online.points import search
from harness.orders import prime_objects
from harness.preparation import Preparation, block_count
from harness.progress import RunProgress
from harness.records import Records
from harness.repetitions import repeat, warm_up
from harness.run import DeadlineError, Run
from harness.run_store import RunStore
from harness.sites.base import Site
from harness.sites.ground import Ground, OpenSite
from hosts.protocol import Ceiling, MeasureStorage, Prime, StoredObject

_PRIME_BATCH = 8
_PRIME_TIMEOUT_S = 120.0
CEILING_TIMEOUT_S = 30.0


def measure(
    experiment: Experiment,
    directory: Path,
    ground: Ground,
    progress: RunProgress,
    *,
    retries: int = 0,
    resume: bool = False,
) -> RunStore:
    """Run an experiment and leave its records in ``directory``, whose store is returned:

    1. prepare: trace, model, hardware and scale; what must be read (nothing is started yet)
    2. open the run directory
    3. raise the site: an emulated cluster, or a rack's hosts
    4. deploy an agent on every host
    5. prime the storage with every session's past
    6. measure the ceiling of every storage path
    7. replay each repetition, policies alternating; or, online, each arrival rate
    8. save the records, after each repetition and whatever happens

    A host that fails ends the attempt; there are ``retries`` more, each for what is missing. With ``resume``
    the directory is that of an earlier run, of which only what is missing is measured, if anything is.

    Raises ExperimentError, TraceError, ModelError, RunDirectoryError (input); HostError, ClusterError,
    RunStoreError, DeadlineError (testbed); KeyboardInterrupt.
    """
    preparation = ground.prepared(experiment)
    progress.phase(_describe(preparation))
    store, records = _open_records(directory, circumstances(preparation, ground.describe()), resume)
    if store.finished:
        return store
    store.save("experiment.toml", to_toml(preparation.experiment).encode())
    run = Run(preparation, store, progress, records)
    with run.recorded(), ground.raised(run) as open_site:
        asyncio.run(_measure_in_attempts(run, open_site, retries))
    return store


def _open_records(directory: Path, found: dict[str, Any], resume: bool) -> tuple[RunStore, Records]:
    if resume:
        return RunStore.reopen(directory, found), Records.load(directory)
    return RunStore.create(directory, found), Records()


async def _measure_in_attempts(run: Run, open_site: OpenSite, retries: int) -> None:
    deadline_s = run.preparation.experiment.measurement.deadline_s
    try:
        async with asyncio.timeout(deadline_s) as deadline:
            with one_interrupt():
                for attempt in itertools.count():
                    try:
                        return await _measure_on(run, open_site)
                    except HostError as error:
                        if attempt == retries:
                            raise
                        run.begin_again(error)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise DeadlineError(
            f"measurement.deadline_s: the run did not end within {deadline_s:g} s, {run.in_flight()}"
        ) from None


async def _measure_on(run: Run, open_site: OpenSite) -> None:
    """One attempt, on a site of its own."""
    try:
        async with open_site() as site:
            await _measure_phases(run, site)
    except HostError as error:
        said = run.store.log_of(error.host, last_lines=not error.told)
        raise HostError(error.host, f"{error.reason}, {run.in_flight()}{said}") from None


async def _measure_phases(run: Run, site: Site) -> None:
    preparation = run.preparation
    run.take(site)
    configs = {host.name: preparation.host_config(site, host) for host in site.hosts}
    run.begin(f"deploying {len(configs)} agents")
    async with deploy(site, configs, run.store) as deployment:
        run.begin_attempt(host_entries(preparation, site, deployment.agents))
        run.note_calibration(site.calibration)
        plan, ceiling = preparation.plan, preparation.ceiling_objects()
        await prime(run, deployment, [*prime_objects(plan.sessions, plan.shared), *ceiling])
        await _measure_ceilings(run, deployment)
        await warm_up(run, deployment)
        if preparation.experiment.online is None:
            await repeat(run, deployment)
        else:
            await search(run, deployment, preparation.experiment.online)
    run.end_attempt("complete")


async def prime(run: Run, deployment: Deployment, objects: Sequence[StoredObject]) -> None:
    """Storage clients write objects, each its share."""
    nbytes = sum(map(block_count, objects)) * run.preparation.scale.geometry.full_block_bytes
    clients = [deployment.agents[host] for host in run.storage_clients]
    async with run.phase("prime", f"priming the storage with {nbytes / 1e6:.0f} MB of KV cache"):
        shares = [_write(client, objects[i :: len(clients)]) for i, client in enumerate(clients)]
        await deployment.guard(all_of(shares))


async def _write(client: AgentHandle, objects: Sequence[StoredObject]) -> None:
    for first in range(0, len(objects), _PRIME_BATCH):
        await client.call(Prime(tuple(objects[first : first + _PRIME_BATCH])), _PRIME_TIMEOUT_S)


async def _measure_ceilings(run: Run, deployment: Deployment) -> None:
    """What each storage path carries when all hosts read at once and nothing else happens."""
    seconds = run.preparation.experiment.measurement.ceiling_s
    command = MeasureStorage(run.preparation.readable_ceiling_objects(), seconds)
    async with run.phase("ceilings", f"measuring storage ceilings ({seconds:g} s)"):
        calls = deployment.call_all(dict.fromkeys(run.serving(), command), seconds + CEILING_TIMEOUT_S)
        answers = await deployment.guard(calls)
    run.note_ceilings({h: a.bytes_per_s for h, a in answers.items() if isinstance(a, Ceiling)})


def _describe(preparation: Preparation) -> str:
    cluster, scale = preparation.experiment.cluster, preparation.scale
    return (
        f"{preparation.experiment.name}: {len(preparation.sessions)} agents, {preparation.turns} turns, "
        f"hit rate {preparation.hit_rate:.2%}, {preparation.model.name} on {cluster.prefill_hosts}P"
        f"{cluster.decode_hosts}D, storage NICs {scale.storage_nic_bytes_per_s * 8 / 1e6:.0f} Mbit/s emulated"
    )
