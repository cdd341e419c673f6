"""The cluster as namespaces: the control node, each host, storage, the switch; shaped links; nginx."""

from __future__ import annotations

from contextlib import ExitStack

from harness.cluster.cluster import Cluster, ClusterHost
from harness.cluster.errors import ClusterError
from harness.cluster.modes import inside_user_namespace
from harness.cluster.namespaces import (
    NetworkNamespace,
    connect_all,
    open_current_namespace,
    restore_network_namespace,
)
from harness.cluster.soft_roce import SoftRoceDevice, require_soft_roce
from harness.cluster.storage_server import STORAGE_PORT, start_storage_server
from harness.cluster.topology import Topology, lay_out


class EmulatedCluster(Cluster):
    """Real links at the NICs' rates and a real storage server, in either of the two namespace modes."""

    def _set_up(self, resources: ExitStack) -> None:
        self.mode = "user_namespaces" if inside_user_namespace() else "network_namespaces"
        topology = lay_out(self.spec)
        self._switch = NetworkNamespace()
        resources.callback(self._switch.close)
        self._namespaces: dict[str, NetworkNamespace] = {}
        for endpoint in topology.endpoints:
            namespace = self._namespaces[endpoint.name] = NetworkNamespace()
            resources.callback(namespace.close)
        connect_all(topology, self._switch, self._namespaces, self.spec.high_class)
        devices = self._rdma_devices(topology, resources) if self.spec.soft_roce else {}
        self.control_address = topology.control.address("management")
        self.hosts = tuple(
            ClusterHost(
                name=endpoint.name,
                role=endpoint.role,
                management_address=endpoint.address("management"),
                storage_address=endpoint.address("storage"),
                compute_address=endpoint.address("compute"),
                nics=endpoint.nics,
                namespace=self._namespaces[endpoint.name].path,
                rdma_device=devices.get(endpoint.name, ""),
            )
            for endpoint in topology.hosts
        )
        self._start_storage()

    def _rdma_devices(self, topology: Topology, resources: ExitStack) -> dict[str, str]:
        """A device for every host that has a compute NIC, by host."""
        if self.mode == "user_namespaces":
            raise ClusterError(
                "transport 'verbs': RDMA devices cannot be made inside a user namespace; fix: run as root, "
                "or with [transport] kind = 'tcp'"
            )
        require_soft_roce()
        devices = {}
        for host in topology.hosts:
            for nic in host.nics:
                if nic.rdma:
                    device = SoftRoceDevice(
                        f"rx{self.run_id}{host.name}", self._namespaces[host.name], nic.name
                    )
                    resources.callback(device.close)
                    devices[host.name] = device.name
        # Before the devices, whoever has one open has to be gone.
        resources.callback(self._processes.kill_all)
        return devices

    def _start_storage(self) -> None:
        prefix = self.scratch / "nginx"
        prefix.mkdir(exist_ok=True)
        address = self.host("storage").storage_address
        namespace = self._namespaces["storage"]
        server = start_storage_server(
            self._processes,
            prefix,
            self.storage_root,
            self.storage_log,
            namespace,
            address,
            cache=self._cache,
        )
        self.storage_processes = (server,)
        self.storage_url = f"http://{address}:{STORAGE_PORT}"

    def enter_control_namespace(self) -> None:
        """See ``Cluster``: undone when the cluster is left."""
        self._resources.callback(restore_network_namespace, open_current_namespace())
        self._namespaces["control"].enter()
