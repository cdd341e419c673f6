"""Networks of a rack behind sshd, with real links, a real server and real faults, as `check` sees them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from racks.sshd_lab import OBSTACLE, SshdLab, sshd_lab

from harness.cluster import ClusterSpec, probe
from harness.cluster.emulated import EmulatedCluster
from harness.cluster.namespaces import run_batch
from harness.inventory import ComputeNic, Inventory, InventoryHost, StoragePlace, load_inventory
from harness.launchers import open_launcher
from harness.preflight import Finding, Needs, examine
from harness.preflight.examine import Preflight, ask
from harness.preflight.first_inventory import first_inventory

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no sshd: {OBSTACLE}"),
]
BUSY = ("load", "nic load", "clock")
"""Checks of what this machine does besides, and that its cores are shared."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdLab]:
    spec = ClusterSpec(1, 2, storage_nic_bytes_per_s=12.5e6, compute_nic_bytes_per_s=25e6)
    with sshd_lab(tmp_path_factory.mktemp("rack"), spec) as raised:
        yield raised


@pytest.fixture(scope="module")
def cluster(lab: SshdLab) -> EmulatedCluster:
    return lab.cluster


@pytest.fixture(scope="module")
def discovered(lab: SshdLab, tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    """What ``dualpath inventory discover`` makes of the hosts, read again from its file."""
    directory = tmp_path_factory.mktemp("inventory")
    launcher = load_inventory(lab.inventory).launcher
    bare = Inventory(
        hosts=tuple(
            InventoryHost(name=host.name, role=host.role, address=host.management_address, node=host.name)
            for host in lab.cluster.hosts
        ),
        launcher=launcher,
        storage=StoragePlace(url=lab.cluster.storage_url),
        directory=str(lab.home),
        python=sys.executable,
    )

    async def look() -> None:
        async with open_launcher(bare) as opened:
            (directory / "rack.toml").write_text(first_inventory(bare, await ask(opened, bare)))

    lab.inside(lambda: asyncio.run(look()))
    return load_inventory(directory / "rack.toml")


def check(lab: SshdLab, inventory: Inventory, needs: Needs | None = None) -> Preflight:
    found: list[Preflight] = []

    async def look() -> None:
        async with asyncio.timeout(60), open_launcher(inventory) as launcher:
            found.append(await examine(launcher, inventory, needs or Needs()))

    lab.inside(lambda: asyncio.run(look()))
    return found[0]


def errors(preflight: Preflight) -> list[Finding]:
    return [finding for finding in preflight.findings if finding.severity == "error"]


@contextmanager
def fault(cluster: EmulatedCluster, host: str, lines: Sequence[str], undo: Sequence[str]) -> Iterator[None]:
    """What is changed about a host's network, and back. Nobody remembers who answered there before."""
    namespace = cluster._namespaces[host]
    run_batch(namespace, "ip", lines)
    try:
        for peer in ("p0", "d0", "d1"):
            run_batch(cluster._namespaces[peer], "ip", ["neigh flush dev comp0"])
        yield
    finally:
        run_batch(namespace, "ip", undo)


def test_nics_are_guessed_by_what_they_lead_to(discovered: Inventory) -> None:
    assert [(host.name, host.role) for host in discovered.hosts] == [
        ("storage", "storage"),
        ("p0", "prefill"),
        ("d0", "decode"),
        ("d1", "decode"),
    ]
    for host in discovered.hosts[1:]:
        assert host.storage_nic is not None
        assert host.storage_nic.name == "stor0"
        assert [nic.name for nic in host.compute_nics] == ["comp0"]


def test_what_was_discovered_is_ready(lab: SshdLab, cluster: EmulatedCluster, discovered: Inventory) -> None:
    found = check(lab, discovered)
    assert errors(found) == []
    told = [f for f in found.findings if f.severity == "warning" and f.check not in BUSY]
    assert told == []
    passed = {(f.host, f.check) for f in found.findings if f.severity == "ok"}
    for host in ("p0", "d0", "d1"):
        assert {(host, check) for check in ("storage", "storage path", "compute network", "python")} <= passed
    (together,) = [f for f in found.findings if f.check == "one role a host" and f.severity == "info"]
    assert together.evidence.startswith("storage, p0, d0, d1 are containers or namespaces of one machine")
    assert list(cluster.storage_root.iterdir()) == []


def test_a_nic_that_is_down(lab: SshdLab, cluster: EmulatedCluster, discovered: Inventory) -> None:
    with fault(cluster, "d1", ["link set comp0 down"], ["link set comp0 up"]):
        found = errors(check(lab, discovered))
    assert ("d1", "compute nic", "comp0: is DOWN, expected UP") in [
        (f.host, f.check, f.evidence) for f in found
    ]
    (seen,) = [f for f in found if f.host == "p0"]
    assert "nobody there (No route to host): d1 (10.79.0.101)" in seen.evidence


def test_a_nic_on_a_wrong_network(lab: SshdLab, cluster: EmulatedCluster, discovered: Inventory) -> None:
    change = ["address flush dev comp0", "address add 10.99.0.10/24 dev comp0"]
    back = ["address flush dev comp0", "address add 10.79.0.10/24 dev comp0"]
    with fault(cluster, "p0", change, back):
        found = errors(check(lab, discovered))
    assert {(f.host, f.check) for f in found} == {(host, "compute network") for host in ("p0", "d0", "d1")}
    (own,) = [f for f in found if f.host == "p0"]
    assert "no route (Network is unreachable): d0 (10.79.0.100), d1 (10.79.0.101)" in own.evidence
    assert "comp0 is in 10.99.0.0/24" in own.fix


def test_an_mtu_that_differs(lab: SshdLab, cluster: EmulatedCluster, discovered: Inventory) -> None:
    with fault(cluster, "d0", ["link set comp0 mtu 1400"], ["link set comp0 mtu 1500"]):
        found = check(lab, discovered)
    (wrong,) = errors(found)
    assert (wrong.host, wrong.check) == ("p0", "mtu")
    assert "packets of 1500 bytes do not get to d0 (10.79.0.100)" in wrong.evidence
    (odd,) = [f for f in found.findings if f.check == "mtu" and f.severity == "warning"]
    assert (odd.host, odd.evidence) == ("d0", "compute NIC comp0 has MTU 1400, most others have 1500")


def test_a_storage_that_is_reached_through_another_nic(
    lab: SshdLab, cluster: EmulatedCluster, discovered: Inventory
) -> None:
    address = cluster.host("storage").storage_address
    with fault(cluster, "d0", [f"route add {address} dev mgmt0"], [f"route del {address} dev mgmt0"]):
        (wrong,) = errors(check(lab, discovered))
    assert (wrong.host, wrong.check) == ("d0", "storage path")
    assert (
        f"{address} is reached through mgmt0 (10.77.0.100), not through the storage NIC stor0"
        in wrong.evidence
    )


def test_a_nic_in_another_switch_than_its_address_says(
    lab: SshdLab, cluster: EmulatedCluster, discovered: Inventory
) -> None:
    change = [
        "link set comp0 down",
        "address del 10.79.0.101/24 dev comp0",
        "address add 10.79.0.101/24 dev mgmt0",
    ]
    back = [
        "address del 10.79.0.101/24 dev mgmt0",
        "link set comp0 up",
        "address add 10.79.0.101/24 dev comp0",
    ]
    nic = ComputeNic(name="mgmt0", address="10.79.0.101")
    hosts = (replace(h, compute_nics=(nic,)) if h.name == "d1" else h for h in discovered.hosts)
    with fault(cluster, "d1", change, back):
        found = check(lab, replace(discovered, hosts=tuple(hosts)))
    (seen,) = errors(found)
    assert (seen.host, seen.check) == ("p0", "compute network")
    assert "nobody there (No route to host): d1 (10.79.0.101)" in seen.evidence
    # The other way there is somebody, who has two NICs in that switch, but the answer takes the right one.
    (silent,) = [f for f in found.findings if f.host == "d1" and f.check == "compute network"]
    assert (silent.severity, "no answer from p0" in silent.evidence) == ("warning", True)


def test_a_host_in_use(lab: SshdLab, cluster: EmulatedCluster, discovered: Inventory, tmp_path: Path) -> None:
    hold = (
        "import asyncio\n"
        "from hosts.claim import Claim, claimed\n"
        "async def hold():\n"
        "    async with claimed(Claim('deadbeef', 'bob', '2026-01-01T00:00:00Z', 'login1')):\n"
        "        print('held', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(hold())\n"
    )
    log = tmp_path / "log"
    holder = cluster.spawn("d1", [sys.executable, "-c", hold], log)
    try:
        while not (log.exists() and "held" in log.read_text()):
            with pytest.raises(subprocess.TimeoutExpired):
                holder.wait(0.05)
        (wrong,) = errors(check(lab, discovered))
    finally:
        holder.kill()
        holder.wait()
    assert (wrong.host, wrong.check) == ("d1", "lock")
    assert wrong.evidence.startswith("run deadbeef of bob measures here since 2026-01-01T00:00:00Z")
