"""A rack for tests: an emulated cluster's hosts, and their inventory, whatever starts agents there."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from harness.bundle.lock import lock_text
from harness.bundle.wheelhouse import HostKind, WheelhouseError, wheels_for
from harness.cluster import ClusterHost, ClusterSpec
from harness.cluster.emulated import EmulatedCluster
from harness.cluster.namespaces import port as switch_port
from harness.host_error import HostError
from harness.inventory import load_inventory
from harness.launchers import Launcher, open_launcher
from hosts.config import Network

Hosts = Mapping[str, Mapping[str, Any]]
SPEC = ClusterSpec(1, 1, storage_nic_bytes_per_s=12.5e6, compute_nic_bytes_per_s=25e6)
KILL_TIMEOUT_S = 5.0
TEST_TIMEOUT_S = 100.0
LauncherTest = Callable[[Launcher], Coroutine[Any, Any, None]]


class RackLab:
    """Hosts that are up, on which something has yet to be started.

    Commands with ``prefix`` run on the control node. ``home`` is the inventory's directory on every host,
    ``inventory`` its file, ``launcher`` and, if not '', ``python`` what it says of these.
    """

    launcher: dict[str, Any]
    python = ""

    def __init__(self, cluster: EmulatedCluster, directory: Path) -> None:
        fetch_wheels()
        self.cluster = cluster
        self.hosts = {host.name: host for host in cluster.hosts}
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir()
        self.inventory = directory / "rack.toml"
        # Processes end with the thread that starts them: not the caller's, who may be ``inside``.
        self.starter = ThreadPoolExecutor(1)
        self.prefix: tuple[str, ...] = ("nsenter", f"--net={self.namespace('control')}", "--")

    def inside(self, action: Callable[[], None]) -> None:
        """Call something on the control node: in a thread that is on its network."""
        self.cluster._namespaces["control"].run(action)

    def namespace(self, name: str) -> str:
        """The network namespace of a host, or of 'control'."""
        return self.cluster._namespaces[name].path

    def processes(self, name: str) -> list[psutil.Process]:
        """All that runs in the namespace of a host, or of 'control'."""
        wanted = os.stat(self.namespace(name)).st_ino
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.NoSuchProcess):
                if os.stat(f"/proc/{process.pid}/ns/net").st_ino == wanted:
                    found.append(process)
        return found

    def set_link(self, name: str, state: str, network: Network = "management") -> None:
        """Set something (ip-link(8): ``down``) of a host's link to a network, at the switch's end: nobody is
        told of it."""
        switch = self.cluster._switch.path
        port = switch_port(network, name)
        subprocess.run(["nsenter", f"--net={switch}", "ip", "link", "set", port, *state.split()], check=True)

    def write_inventory(self, file: Path, hosts: Hosts | None = None, **launcher: Any) -> Path:
        """An inventory of all hosts, with changes to ``hosts`` by name and to the launcher section."""
        document = {
            "scale": "experiment",
            "control_address": self.cluster.control_address,
            "directory": str(self.home),
            **({"python": self.python} if self.python else {}),
            "launcher": self.launcher | launcher,
            "storage": {"url": self.cluster.storage_url},
            "hosts": [
                self._described(host) | (hosts or {}).get(host.name, {}) for host in self.hosts.values()
            ],
        }
        file.write_text(tomli_w.dumps(document))
        return file

    def close(self) -> None:
        """End all that runs on the hosts: what daemons start does not carry the run's id."""
        kill([process for name in self.hosts for process in self.processes(name)])
        self.starter.shutdown()

    def _described(self, host: ClusterHost) -> dict[str, Any]:
        described: dict[str, Any] = {"name": host.name, "role": host.role, "address": host.management_address}
        if host.role == "storage":
            return described | {"storage": {"mount": str(self.cluster.storage_root)}}
        nics = {nic.network: {"name": nic.name, "address": nic.address} for nic in host.nics}
        return described | {"storage_nic": nics["storage"], "compute_nics": [nics["compute"]]}


def fetch_wheels() -> None:
    """Those that bundles for this Python need: a lab's control node has no way to a package index.

    Where there is none either, whoever deploys there says so.
    """
    version = sys.version_info
    kind = HostKind(
        f"{version.major}.{version.minor}",
        f"cp{version.major}{version.minor}",
        platform.machine(),
        platform.libc_ver()[1],
    )
    with suppress(WheelhouseError):
        asyncio.run(wheels_for(kind, lock_text()))


class OwnInventory:
    """A lab's hosts under an inventory of a test's own, as the lab's with changes."""

    def __init__(self, lab: RackLab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory

    def written(self, hosts: Hosts | None = None, **launcher: Any) -> Path:
        """Its file."""
        return self.lab.write_inventory(self.directory / "own.toml", hosts, **launcher)

    def over(self, test: LauncherTest, hosts: Hosts | None = None, **launcher: Any) -> None:
        """Run a test over a launcher of its own, on the control node."""
        inventory = load_inventory(self.written(hosts, **launcher))

        async def run() -> None:
            async with asyncio.timeout(TEST_TIMEOUT_S), open_launcher(inventory) as opened:
                await test(opened)

        self.lab.inside(lambda: asyncio.run(run()))

    def refusal(self, host: str = "d0", hosts: Hosts | None = None, **launcher: Any) -> str:
        """Why a host cannot be reached or, of 'control', there is no launcher at all; in one line."""

        async def test(launcher: Launcher) -> None:
            await launcher.run(host if host in launcher.hosts else launcher.hosts[0], ["true"])

        with pytest.raises(HostError) as caught:
            self.over(test, hosts, **launcher)
        assert caught.value.host == host
        assert "\n" not in caught.value.reason
        return caught.value.reason


async def works(launcher: Launcher) -> None:
    """Every host runs commands."""
    for host in launcher.hosts:
        assert (await launcher.run(host, ["echo", "hello"])).stdout == b"hello\n"


def kill(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL, until they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    end_at = time.monotonic() + KILL_TIMEOUT_S
    while left := [process for process in processes if _runs(process)]:
        assert time.monotonic() < end_at, f"outlived SIGKILL: {left}"
        time.sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
