"""Kernels measured on a host of an inventory, over its launcher."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import msgspec

from harness.bundle import deploy_bundle
from harness.experiment import ExperimentError
from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost
from harness.launchers import open_launcher
from harness.sites.rack import host_claim
from hosts.bench.kernels import Kernels, Measured


def host_of(inventory: Inventory, name: str) -> InventoryHost:
    """The one of that name, or the first prefill host; raises ExperimentError if there is none."""
    for host in inventory.hosts:
        if host.name == name or (not name and host.role == "prefill"):
            return host
    listed = ", ".join(host.name for host in inventory.hosts)
    raise ExperimentError(
        f"--host: found {name or 'no prefill host'!r} in inventory {inventory.name}, expected one of {listed}"
    )


def measured_on(
    inventory: Inventory, host: InventoryHost, progress: Callable[[str], None], kernels: Kernels
) -> Measured:
    """Bring the host what it needs, and measure there with its torch, while it says whose it is. Raises
    HostError, also for a host that a run holds."""
    alone = msgspec.structs.replace(inventory, hosts=(host,))
    there = msgspec.structs.replace(
        kernels,
        gpu=kernels.gpu or next(iter(host.gpus), ""),
        python=inventory.python,
        claim=host_claim(secrets.token_hex(4)),
    )
    return asyncio.run(_measured(alone, progress, there))


async def _measured(alone: Inventory, progress: Callable[[str], None], kernels: Kernels) -> Measured:
    """On the one host of an inventory."""
    (host,) = alone.hosts
    async with open_launcher(alone) as launcher:
        installed = await deploy_bundle(launcher, alone, progress=progress)
        progress(f"measuring {len(kernels.attention) + len(kernels.tokens)} points on {host.name}")
        argv = installed[host.name].argv("hosts.bench.kernels", msgspec.json.encode(kernels).decode())
        done = await launcher.run(host.name, argv, timeout_s=kernels.deadline_s)
    if done.status != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise HostError(host.name, said[-1] if said else f"measuring ended with {done.status}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Measured)
