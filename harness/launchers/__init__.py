"""Launchers start agents on hosts and say how they ended. Each imports its own library, when asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from harness.host_error import HostError
from harness.inventory import Inventory, RayLauncher, SlurmLauncher, SshLauncher
from harness.launchers.base import Completed, Launcher, Started

__all__ = ["Completed", "Launcher", "Started", "open_launcher"]


@asynccontextmanager
async def open_launcher(inventory: Inventory) -> AsyncIterator[Launcher]:
    """The launcher that an inventory names, for its hosts; at the end, what it has started is ended.

    Raises HostError if it cannot be opened, its library is missing for one. The emulated cluster has no
    inventory: its launcher is `harness.launchers.local`.
    """
    try:
        launcher = await _open(inventory)
    except ModuleNotFoundError as error:
        raise HostError("control", f"{error.name} is not installed; fix: pip install {error.name}") from error
    try:
        yield launcher
    finally:
        await launcher.close()


async def _open(inventory: Inventory) -> Launcher:
    match inventory.launcher:
        case SshLauncher():
            from harness.launchers import ssh

            return ssh.open_ssh(inventory)
        case RayLauncher():
            from harness.launchers import ray

            return await ray.open_ray(inventory)
        case SlurmLauncher():
            from harness.launchers import slurm

            return await slurm.open_slurm(inventory)
