"""Hosts that are nodes of a Ray cluster, an actor pinned to each.

Ray changes its process (signal handlers, threads, logging) and ends it when it loses its cluster, so its
driver is a process of its own. What is asked of a `RayHosts` goes there by `messages`; there `driver` answers
it over a `Session` with an actor (`actor`), which `Placement` has put on the node that `nodes` has found.
"""

from __future__ import annotations

from importlib.util import find_spec

from harness.host_error import HostError
from harness.inventory import Inventory
from harness.launchers.ray.launcher import RayHosts

__all__ = ["open_ray"]


async def open_ray(inventory: Inventory) -> RayHosts:
    """The launcher on an inventory's hosts, connected to its cluster; each host gets its actor when it is first
    needed. Raises HostError without ray, or if there is no such cluster, or it is another Ray or Python."""
    if find_spec("ray") is None:
        raise HostError("control", "ray is not installed; fix: pip install 'dualpath-testbed[ray]'")
    return await RayHosts.opened(inventory)
