"""The last resort: plain processes on 127.0.0.1, storage as a directory, rates kept by the agents."""

from __future__ import annotations

from contextlib import ExitStack

from harness.cluster.cluster import Cluster, ClusterHost
from harness.cluster.topology import lay_out

_ADDRESS = "127.0.0.1"


class LoopbackCluster(Cluster):
    """All hosts share one address, so agents choose their own ports; there is no NIC to sample or shape."""

    def _set_up(self, resources: ExitStack) -> None:
        self.mode = "loopback"
        self.control_address = _ADDRESS
        self.storage_pace_bytes_per_s = self.spec.storage_nic_bytes_per_s
        self.compute_pace_bytes_per_s = self.spec.compute_nic_bytes_per_s
        self.hosts = tuple(
            ClusterHost(host.name, host.role, _ADDRESS, _ADDRESS, _ADDRESS, nics=(), namespace=None)
            for host in lay_out(self.spec).hosts
        )

    def enter_control_namespace(self) -> None:
        """Nothing to enter: the control node is this machine."""
