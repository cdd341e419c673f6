"""A rack's ceilings, measured: the table of contents of a calibration."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path as File

from harness.calibration.fio import fio_read_bytes_per_s
from harness.calibration.plan import Path, alone, together
from harness.calibration.result import FORMAT_VERSION, Calibration, StorageCeiling, TransferCeiling, save
from harness.circumstances import circumstances, host_entries, now
from harness.deployment import Deployment, deploy
from harness.experiment import Experiment
from harness.interrupts import one_interrupt
from harness.orchestrator import CEILING_TIMEOUT_S, prime
from harness.progress import RunProgress
from harness.run import Run
from harness.run_store import RunStore
from harness.scale_model import figures_in_force
from harness.sites.base import Site
from harness.sites.ground import Ground, OpenSite
from hosts.facts import fingerprint
from hosts.protocol import Ceiling, MeasureStorage, MeasureTransfer, Message


def calibrate(
    experiment: Experiment, directory: File, ground: Ground, progress: RunProgress, seconds: float
) -> Calibration:
    """Measure every path with reads like the experiment's, for ``seconds`` each; what is found is in
    ``directory``/calibration.json, too, beside the hosts' logs:

    1. prepare; open the directory; raise the site; deploy an agent on every host
    2. write what is read
    3. each storage path alone, with fio beside it where it can be; then all at once
    4. each compute NIC alone; then all pairs of roles, as many at once as there can be

    Raises what `harness.orchestrator.measure` does.
    """
    preparation = ground.prepared(experiment)
    store = RunStore.create(directory, circumstances(preparation, ground.describe()))
    run = Run(preparation, store, progress)
    with run.recorded(), ground.raised(run) as open_site:
        calibration = asyncio.run(_calibrate(run, open_site, ground.name, seconds))
    save(calibration, directory / "calibration.json")
    return calibration


async def _calibrate(run: Run, open_site: OpenSite, place: str, seconds: float) -> Calibration:
    preparation = run.preparation
    async with asyncio.timeout(preparation.experiment.measurement.deadline_s), open_site() as site:
        with one_interrupt():
            run.take(site)
            configs = {host.name: preparation.host_config(site, host) for host in site.hosts}
            run.begin(f"deploying {len(configs)} agents")
            async with deploy(site, configs, run.store) as deployment:
                run.begin_attempt(host_entries(preparation, site, deployment.agents))
                await prime(run, deployment, preparation.ceiling_objects())
                storage = await _storage(run, deployment, site, seconds)
                apart, transfers = await _transfers(run, deployment, seconds)
                run.end_attempt("complete")
                return Calibration(
                    format_version=FORMAT_VERSION,
                    measured_at=now(),
                    place=place,
                    dualpath_version=metadata.version("dualpath-testbed"),
                    experiment=preparation.experiment.name,
                    transport=preparation.experiment.transport.kind,
                    fingerprints={h: fingerprint(agent.facts) for h, agent in deployment.agents.items()},
                    storage=storage,
                    alone_bytes_per_s=apart,
                    transfers=transfers,
                    profile=figures_in_force(preparation.profile),
                )


async def _storage(run: Run, deployment: Deployment, site: Site, seconds: float) -> dict[str, StorageCeiling]:
    readers, objects = run.serving(), run.preparation.readable_ceiling_objects()
    command = MeasureStorage(objects, seconds)
    apart: dict[str, float] = {}
    fio: dict[str, float | None] = {}
    for host in site.hosts:
        if host.name in readers:
            async with run.phase("ceilings", f"storage path of {host.name} alone"):
                apart |= await _ceilings(deployment, {host.name: command}, seconds)
                fio[host.name] = await fio_read_bytes_per_s(site.launcher, host, run.preparation, seconds)
    async with run.phase("ceilings", "all storage paths at once"):
        at_once = await _ceilings(deployment, dict.fromkeys(readers, command), seconds)
    return {host: StorageCeiling(apart[host], at_once[host], fio[host]) for host in readers}


async def _transfers(
    run: Run, deployment: Deployment, seconds: float
) -> tuple[dict[str, float], list[TransferCeiling]]:
    prefill, decode = run.of_role("prefill"), run.of_role("decode")
    apart: dict[str, float] = {}
    found = []
    for paths in alone(prefill, decode):
        async with run.phase("ceilings", f"compute NIC of {paths[0].initiator} alone"):
            apart |= await _rates(deployment, paths, seconds)
    rounds = together(prefill, decode)
    for number, paths in enumerate(rounds):
        async with run.phase(
            "ceilings", f"compute NICs, {len(paths)} paths at once, {number + 1}/{len(rounds)}"
        ):
            rates = await _rates(deployment, paths, seconds)
        found += [TransferCeiling(*path, rates[path.initiator]) for path in paths]
    return apart, found


async def _rates(deployment: Deployment, paths: Iterable[Path], seconds: float) -> dict[str, float]:
    """By initiator."""
    commands = {
        path.initiator: MeasureTransfer(path.peer, deployment.regions[path.peer], seconds) for path in paths
    }
    return await _ceilings(deployment, commands, seconds)


async def _ceilings(
    deployment: Deployment, commands: Mapping[str, Message], seconds: float
) -> dict[str, float]:
    answers = await deployment.guard(deployment.call_all(commands, seconds + CEILING_TIMEOUT_S))
    return {host: answer.bytes_per_s for host, answer in answers.items() if isinstance(answer, Ceiling)}
