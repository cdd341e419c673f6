"""What killed runs left on a rack, removed over the same launchers; bundles that nobody has used for long."""

from __future__ import annotations

import asyncio
import tomllib

import msgspec

from harness.bundle import deploy_bundle, prune_bundles
from harness.cluster import ClusterError, RunRecord
from harness.host_error import HostError
from harness.inventory import Inventory
from harness.launchers import open_launcher
from harness.sites.rack_storage import leftovers


def remove_on_hosts(record: RunRecord) -> list[str]:
    """Processes and stored objects of a dead run, on every host of its inventory; raises ClusterError."""
    inventory = msgspec.convert(tomllib.loads(record.inventory), Inventory)
    try:
        return asyncio.run(_remove(inventory, record.run_id))
    except HostError as error:
        raise ClusterError(f"run {record.run_id}: {error}; its record stays until that works") from None


def prune(inventory: Inventory) -> list[str]:
    """Old bundles, on every host and here; raises HostError."""

    async def work() -> list[str]:
        async with open_launcher(inventory) as launcher:
            return await prune_bundles(launcher, inventory)

    return asyncio.run(work())


async def _remove(inventory: Inventory, run_id: str) -> list[str]:
    async with open_launcher(inventory) as launcher:
        installed = await deploy_bundle(launcher, inventory, progress=lambda line: None)
        removed = await asyncio.gather(
            *(leftovers(launcher, inventory, host, installed, "remove", run_id) for host in inventory.hosts)
        )
    return [
        f"host {host.name}: {line}"
        for host, lines in zip(inventory.hosts, removed, strict=True)
        for line in lines
    ]
