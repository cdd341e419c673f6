"""Collectives of torch.distributed between the hosts of an emulated cluster: what crosses the compute NICs,
in which class, and what becomes of the others when a host is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from harness.bench.traffic import Observation, TrafficProcesses, traffic
from harness.cluster import ClusterSpec, probe
from harness.cluster.emulated import EmulatedCluster
from harness.experiment import Transport
from harness.host_error import HostError
from harness.launchers.local import LocalProcess
from harness.preparation import transport_config
from harness.sites.base import SiteHost
from harness.sites.emulated import emulated_site
from hosts.bench.phases import Burst, BurstCycle, CollectiveLibrary, TorchGroup, TrafficConfig
from hosts.credentials import Credentials
from hosts.rtnetlink import class_bytes

HOSTS = 3
CYCLE = BurstCycle(
    (
        Burst("reduce_scatter", 30_001, 0.02),  # not a whole number of BF16 values
        Burst("all_gather", 30_001, 0.02),
        Burst("dispatch", 20_000, 0.02),
        Burst("combine", 40_000, 0.02),
    )
)
OBSTACLE = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no network namespaces: {OBSTACLE}"),
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None,
        reason="torch is not installed here (tox -e torch installs it)",
    ),
]


@pytest.fixture(params=["gloo", "nccl"])
def library(request: pytest.FixtureRequest) -> CollectiveLibrary:
    if request.param == "nccl":
        import torch

        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found < HOSTS:
            pytest.skip(f"GPU: torch finds {found} here, NCCL wants one for each of {HOSTS} hosts")
        return "nccl"
    return "gloo"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EmulatedCluster]:
    """One prefill and two decode hosts with compute NICs of 200 Mbit/s."""
    spec = ClusterSpec(1, 2, storage_nic_bytes_per_s=25e6, compute_nic_bytes_per_s=25e6)
    with EmulatedCluster(spec, scratch_parent=tmp_path, state_dir=tmp_path / "state") as raised:
        raised.enter_control_namespace()
        yield raised


@asynccontextmanager
async def collectives(
    cluster: EmulatedCluster, library: CollectiveLibrary
) -> AsyncIterator[TrafficProcesses]:
    """A process for the collectives on every host."""
    async with emulated_site(cluster) as every:
        site = dataclasses.replace(every, hosts=every.hosts[1:])  # the first stores

        def configs(host: SiteHost, credentials: Credentials) -> list[TrafficConfig]:
            group = TorchGroup(library, str(site.hosts.index(host)) if library == "nccl" else "")
            transport = transport_config(Transport(), site, host, host.rails[0])
            return [TrafficConfig(credentials, HOSTS, transport, CYCLE, group)]

        async with traffic(site, configs, cluster.scratch) as processes:
            yield processes


def sent(cluster: EmulatedCluster) -> dict[str, dict[str, int]]:
    """Bytes that each host has sent on its compute NIC, by class id."""
    found = {}
    for host in cluster.hosts[1:]:
        (nic,) = (nic.name for nic in host.nics if nic.network == "compute")
        found[host.name] = cluster._namespaces[host.name].run(lambda nic=nic: class_bytes(nic))
    return found


def test_a_hosts_parts_and_no_more_cross_its_nic_in_the_high_class(
    cluster: EmulatedCluster, library: CollectiveLibrary
) -> None:
    async def run() -> tuple[Observation, dict[str, dict[str, int]], dict[str, dict[str, int]]]:
        async with collectives(cluster, library) as processes:
            await processes.run({"collectives": "high"}, 0, 0.2, 0)
            before = sent(cluster)
            observation = await processes.run({"collectives": "high"}, 0, 2.0, 0)
            return observation, before, sent(cluster)

    observation, before, after = asyncio.run(run())
    for host, observed in observation.collectives.items():
        assert {burst.position for burst in observed.bursts} == {0, 1, 2, 3}
        payload = sum(2 * CYCLE.bursts[burst.position].bytes_to_peer for burst in observed.bursts)
        high, low = (after[host][leaf] - before[host][leaf] for leaf in ("1:10", "1:20"))
        # One more burst is the last, one the first of the phase, a byte long. Headers: 66 bytes in 1,514.
        assert payload < high < 1.1 * (payload + 2 * 40_000)
        assert low < 10_000
        assert 0.9 * payload < observed.bytes < 1.1 * payload


def test_a_host_that_is_lost_is_named_and_not_those_that_wait_for_it(
    cluster: EmulatedCluster, library: CollectiveLibrary
) -> None:
    async def run() -> None:
        async with collectives(cluster, library) as processes:
            (lost,) = (process for host, _, process in processes._watch._watched if host == "d0")
            assert isinstance(lost, LocalProcess)
            asyncio.get_running_loop().call_later(1.0, lost.kill)
            await processes.run({"collectives": "high"}, 0, 20.0, 0)

    with pytest.raises(
        HostError, match=r"host d0: its collectives traffic process ended \(killed by signal 9"
    ):
        asyncio.run(run())


def test_a_phase_in_another_class_than_the_groups_is_refused(cluster: EmulatedCluster) -> None:
    async def run() -> None:
        async with collectives(cluster, "gloo") as processes:
            await processes.run({"collectives": "low"}, 0, 0.2, 0)

    with pytest.raises(
        HostError, match="gloo: found traffic class low for a phase, expected high, which the"
    ):
        asyncio.run(run())
