"""The racks that there are to test on, by the launcher that they are for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from harness.cluster import ClusterSpec, probe
from racks import ray_lab, slurm_lab, sshd_lab
from racks.base import RackLab

NO_NAMESPACES = probe().unavailable.get("network_namespaces")


class Rack(NamedTuple):
    """How to raise one in a directory, for a cluster; why that does not work on this machine, or None."""

    lab: Callable[[Path, ClusterSpec], AbstractContextManager[RackLab]]
    obstacle: str | None


RACKS = {
    "ssh": Rack(sshd_lab.sshd_lab, NO_NAMESPACES or sshd_lab.OBSTACLE),
    "slurm": Rack(slurm_lab.slurm_lab, NO_NAMESPACES or slurm_lab.OBSTACLE),
    "ray": Rack(ray_lab.ray_lab, NO_NAMESPACES or ray_lab.OBSTACLE),
}
