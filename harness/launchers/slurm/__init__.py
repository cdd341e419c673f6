"""Hosts that are nodes of a Slurm allocation, a job step a command (srun)."""

from __future__ import annotations

from harness.inventory import Inventory, SlurmLauncher
from harness.launchers.slurm.allocation import open_allocation, placed
from harness.launchers.slurm.launcher import SlurmHosts

__all__ = ["open_slurm"]


async def open_slurm(inventory: Inventory) -> SlurmHosts:
    """The launcher on an inventory's hosts, in the allocation that there is or in one that is made for them.

    Raises HostError if there is none, or if it has not the nodes that the inventory names.
    """
    section = inventory.launcher
    assert isinstance(section, SlurmLauncher), "the registry chooses by it"
    allocation = await open_allocation(section, inventory.hosts)
    try:
        return SlurmHosts(placed(inventory.hosts, allocation), allocation)
    except BaseException:
        await allocation.close()
        raise
