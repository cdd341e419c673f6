"""Hosts that are nodes of a Ray cluster, an actor pinned to each.

Ray changes the process it is in (signal handlers, threads, logging) and ends it when it loses the cluster, so
its driver is a process of its own. `RayHosts` asks it by `messages`; there `driver` has each line run by the
shell of a host's actor (`session`, `actor`), which `placement` has put on the node that `nodes` has found.
"""

from __future__ import annotations

from importlib.util import find_spec

from harness.host_error import HostError
from harness.inventory import Inventory, RayLauncher
from harness.launchers.ray.driver_process import open_driver
from harness.launchers.ray.launcher import RayHosts
from harness.launchers.ray.messages import Open

__all__ = ["open_ray"]


async def open_ray(inventory: Inventory) -> RayHosts:
    """The launcher on an inventory's hosts, connected. A host gets its actor when it is first needed.

    Raises HostError if ray is not installed, there is no such cluster, or it has another version.
    """
    section = inventory.launcher
    assert isinstance(section, RayLauncher), "the registry chooses by it"
    if find_spec("ray") is None:
        raise HostError("control", "ray is not installed; fix: pip install 'dualpath-testbed[ray]'")
    nodes = {host.name: host.node for host in inventory.hosts}
    return RayHosts(tuple(nodes), await open_driver(Open(section.address, section.start_timeout_s, nodes)))
