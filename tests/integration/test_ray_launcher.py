"""A real Ray cluster: which node a host is, what is said where there is none, what is left when it goes."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from racks.base import OwnInventory
from racks.ray_lab import OBSTACLE, RayLab, ray_lab

from harness.cluster import probe
from harness.host_error import HostError
from harness.launchers import Launcher, Started
from harness.launchers.remote import LEASE_S

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no Ray: {OBSTACLE}"),
]
SOON_S = 10.0
NODE_DEATH_S = 40.0
"""Ray asks a node every 3 s and gives it up after five answers that did not come."""
Hosts = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayLab]:
    with ray_lab(tmp_path_factory.mktemp("rack")) as raised:
        yield raised


@pytest.fixture
def rack(lab: RayLab, tmp_path: Path) -> OwnInventory:
    return OwnInventory(lab, tmp_path)


async def started_pair(launcher: Launcher, host: str, directory: Path) -> tuple[Started, list[int]]:
    """A process and its child, both for long; their ids."""
    file = directory / f"pids of {host}"
    argv = ["sh", "-c", 'echo $$ >"$0"; sleep 300 & echo $! >>"$0"; wait', str(file)]
    started = await launcher.start(host, argv, stdin=b"", log=directory / "log")
    await until(lambda: file.exists() and file.read_text().count("\n") == 2, f"process ids in {file}")
    return started, [int(line) for line in file.read_text().split()]


async def until(condition: Callable[[], object], what: str, within_s: float = SOON_S) -> None:
    end_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_at, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.05)


async def until_gone(pids: list[int], within_s: float = SOON_S) -> None:
    await until(lambda: not any(map(runs, pids)), f"processes {pids} have ended", within_s)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- which node a host is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["address", "resource", "label", "id"])
def test_each_way_to_name_a_node_leads_to_it(rack: OwnInventory, way: str) -> None:
    names = {
        host.name: {
            "address": host.management_address,
            "resource": f"host-{host.name}",
            "label": f"host={host.name}",
            "id": rack.lab.node_id(host.name),
        }[way]
        for host in rack.lab.hosts.values()
    }

    async def test(launcher: Launcher) -> None:
        for host in launcher.hosts:
            done = await launcher.run(host, ["ip", "-brief", "address", "show"])
            assert f" {rack.lab.hosts[host].management_address}/" in done.stdout.decode()

    rack.over(test, {name: {"node": node} for name, node in names.items()})


def test_a_name_that_no_node_has(rack: OwnInventory) -> None:
    said = rack.refusal("d0", {"d0": {"node": "gpu77"}})
    assert "no node of the cluster is called 'gpu77', expected one of " in said
    assert re.search(r"10\.77\.0\.100 \(.*host-d0.*\)", said)
    assert "fix: 'node' in the inventory" in said


def test_a_name_that_several_nodes_have(rack: OwnInventory) -> None:
    said = rack.refusal("d0", {"d0": {"node": "rack=lab"}})
    assert f"{len(rack.lab.hosts)} nodes of the cluster are called 'rack=lab'" in said


# --- the cluster -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.77.0.1:6380", r"no Ray cluster at '10\.77\.0\.1:6380': .*refused; fix: `ray start --head`"),
        ("no-such-host.invalid:6379", r"no Ray cluster at 'no-such-host\.invalid:6379'"),
        ("ray://10.77.0.1:10001", r"found 'ray://10\.77\.0\.1:10001', expected host:port or auto"),
    ],
)
def test_no_cluster(rack: OwnInventory, address: str, expected: str) -> None:
    assert re.search(expected, rack.refusal("control", address=address))


def test_something_else_than_a_cluster(rack: OwnInventory) -> None:
    address = rack.lab.cluster.control_address
    with rack.lab.cluster._namespaces["control"].run(lambda: socket.create_server((address, 0))) as server:
        there = f"{address}:{server.getsockname()[1]}"
        said = rack.refusal("control", address=there, start_timeout_s=5.0)
    assert f"no connection to the Ray cluster at '{there}' within 5 s; fix: look at `ray status`" in said


# --- what a command finds, and what others find out ---------------------------------------------------------


def test_a_command_is_not_treated_as_a_worker(rack: OwnInventory) -> None:
    """Ray makes its workers nice, the first to be killed when memory is short, and leaves them one thread."""

    our_score = Path("/proc/self/oom_score_adj").read_text().strip()

    async def test(launcher: Launcher) -> None:
        script = "nice; cat /proc/self/oom_score_adj; env"
        nice, score, *environment = (
            (await launcher.run("d0", ["sh", "-c", script])).stdout.decode().split("\n")
        )
        assert (nice, score) == ("0", our_score)
        assert not [line for line in environment if line.startswith(("OMP_", "RAY_JOB", "CUDA_"))]

    rack.over(test)


def test_secrets_are_in_none_of_rays_files(rack: OwnInventory, tmp_path: Path) -> None:
    secret = secrets.token_hex(16)

    async def test(launcher: Launcher) -> None:
        stdin = f"{secret}\n".encode()
        assert (await launcher.run("d0", ["grep", "-c", "."], stdin=stdin)).stdout == b"1\n"
        await (await launcher.start("d0", ["grep", "-c", "."], stdin=stdin, log=tmp_path / "log")).wait()
        assert (tmp_path / "log").read_text() == "1\n"

    rack.over(test)
    files = [path for path in rack.lab.sessions.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".log"]
    assert not [path for path in files if secret.encode() in path.read_bytes()]


# --- who goes away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["ray::HostShell", "raylet"])
def test_an_actor_or_a_raylet_that_is_killed_is_a_lost_host(
    rack: OwnInventory, tmp_path: Path, victim: str
) -> None:
    async def test(launcher: Launcher) -> None:
        started, pids = await started_pair(launcher, "d0", tmp_path)
        call = asyncio.create_task(launcher.run("d0", ["sleep", "300"], timeout_s=300))
        other, _ = await started_pair(launcher, "p0", tmp_path)
        rack.lab.kill("d0", victim)
        said = await asyncio.wait_for(started.wait(), NODE_DEATH_S)
        assert re.match("lost: .*(worker process has died|unavailable|node has died)", said), said
        with pytest.raises(HostError, match="host d0: "):
            await asyncio.wait_for(call, NODE_DEATH_S)
        await until_gone(pids)
        assert (await launcher.run("p0", ["echo", "on"])).stdout == b"on\n"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.wait(), 0.1)
        if victim == "raylet":
            with pytest.raises(HostError, match=r"host d0: .*(node has died|is dead)"):
                await launcher.run("d0", ["true"])
            with pytest.raises(HostError, match=r"host d0: its node '.*' is dead: .*; fix: `ray start`"):
                await launcher.run("d0", ["true"])
            rack.lab.kill("d0")
            rack.lab.start_again("d0")
        assert (await launcher.run("d0", ["echo", "again"])).stdout == b"again\n"

    rack.over(test)


OWNER = """
import asyncio, sys
from pathlib import Path
from harness.inventory import load_inventory
from harness.launchers import open_launcher

async def main():
    async with open_launcher(load_inventory(Path(sys.argv[1]))) as launcher:
        argv = ["sh", "-c", 'sleep 300 & echo $! >"$0"; echo $$ >>"$0"; wait', sys.argv[2]]
        started = await launcher.start("d0", argv, stdin=b"", log=Path(sys.argv[2] + ".log"))
        print(await started.wait())
        try:
            await launcher.run("d0", ["true"])
        except Exception as error:
            print(error)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_driver_that_is_killed_or_says_nothing_ends_what_runs(
    rack: OwnInventory, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "pids"
    command = [*rack.lab.prefix, sys.executable, "-c", OWNER, str(rack.lab.inventory), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            asyncio.run(until(lambda: file.exists() and file.read_text().count("\n") == 2, "ids", 30))
            pids = [int(line) for line in file.read_text().split()]
            [driver] = psutil.Process(owner.pid).children()
            if how == "killed":
                driver.kill()
                asyncio.run(until_gone(pids))
                said, _ = owner.communicate(timeout=SOON_S)
                assert said.count("the Ray driver has ended") == 2
                assert said.startswith("lost: ")
            else:
                driver.suspend()
                asyncio.run(until_gone(pids, LEASE_S + SOON_S))
        finally:
            owner.kill()
            if how == "frozen":
                driver.kill()
