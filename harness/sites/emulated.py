"""The emulated cluster as a site: one machine, with a namespace a host where it allows that."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from harness.cluster import RDMA_GID_INDEX, Cluster, ClusterHost, ModeChoice, open_cluster
from harness.experiment import Experiment
from harness.launchers.local import LocalLauncher, LocalProcess
from harness.preparation import Preparation, prepare
from harness.run import Run
from harness.sites.base import Site, SiteHost, SiteRail, StorageAccess, Watched
from harness.sites.ground import OpenSite


@dataclass(frozen=True, slots=True)
class EmulatedGround:
    """See `Ground`; ``choice`` is what this machine allows."""

    choice: ModeChoice

    @property
    def name(self) -> str:
        """See `Ground.name`."""
        return f"emulated cluster, {self.choice.mode.replace('_', ' ')}"

    def prepared(self, experiment: Experiment) -> Preparation:
        """See `Ground.prepared`: as it is, for the cluster is made for it, if there can be one."""
        preparation = prepare(experiment)
        preparation.cluster_spec()
        return preparation

    def describe(self) -> dict[str, Any]:
        """See `Ground.describe`."""
        return {
            "mode": self.choice.mode,
            "storage": "posix" if self.choice.mode == "loopback" else "http",
            "labels": [
                "a host's compute NICs are one NIC of their total rate",
                *(f"{mode} not available: {why}" for mode, why in self.choice.unavailable.items()),
            ],
        }

    @contextmanager
    def raised(self, run: Run) -> Iterator[OpenSite]:
        """See `Ground.raised`. The calling thread is on the control node meanwhile."""
        preparation, mode = run.preparation, self.choice.mode
        spec, cache = preparation.cluster_spec(), preparation.experiment.storage.cache
        run.begin(f"raising the cluster ({mode.replace('_', ' ')})")
        with open_cluster(spec, mode, cache=cache) as cluster:
            cluster.enter_control_namespace()
            try:
                yield lambda: emulated_site(cluster)
            finally:
                if cluster.storage_log.exists() and (said := cluster.storage_log.read_bytes()):
                    run.store.log_file("storage", "server")
                    run.store.save("logs/storage/server.log", said)


@asynccontextmanager
async def emulated_site(cluster: Cluster) -> AsyncIterator[Site]:
    """A cluster that is up; what was started on its hosts ends with the site."""
    launcher = LocalLauncher(cluster)
    try:
        yield Site(
            run_id=cluster.run_id,
            hosts=tuple(_host(cluster, host) for host in cluster.hosts),
            control_address=cluster.control_address,
            launcher=launcher,
            watched=tuple(
                Watched("storage", "storage server", LocalProcess(process))
                for process in cluster.storage_processes
            ),
        )
    finally:
        await launcher.close()


def _host(cluster: Cluster, host: ClusterHost) -> SiteHost:
    """The storage host sees the files themselves; the others the server, if there is one."""
    if host.role == "storage":
        storage = StorageAccess(root=str(cluster.storage_root))
    elif cluster.storage_url:
        storage = StorageAccess(url=cluster.storage_url)
    else:
        pace = cluster.storage_pace_bytes_per_s
        storage = StorageAccess(root=str(cluster.storage_root), pace_bytes_per_s=pace)
    return SiteHost(
        name=host.name,
        role=host.role,
        argv=lambda module, *arguments: [sys.executable, "-m", module, *arguments],
        rails=(_rail(host),),
        nics=host.nics,
        storage=storage,
        compute_pace_bytes_per_s=cluster.compute_pace_bytes_per_s,
    )


def _rail(host: ClusterHost) -> SiteRail:
    nic = next((nic.name for nic in host.nics if nic.network == "compute"), "")
    rdma = (host.rdma_device, 1, RDMA_GID_INDEX) if host.rdma_device else None
    return SiteRail(host.compute_address or host.management_address, nic, rdma)
