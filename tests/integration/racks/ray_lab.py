"""A Ray cluster to test against: its head where the control node is, and a node in every host's namespace.

with ray_lab(directory) as lab:
    lab.inside(lambda: asyncio.run(...))                       # on the control node
    subprocess.run([*lab.prefix, "dualpath", ..., lab.inventory])
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import tomli_w

from harness.cluster import ClusterHost, ClusterSpec
from harness.cluster.emulated import EmulatedCluster

SPEC = ClusterSpec(1, 1, storage_nic_bytes_per_s=12.5e6, compute_nic_bytes_per_s=25e6)
PORT = 6379
OBJECT_STORE_BYTES = 80 << 20
READY_TIMEOUT_S = 60.0
KILL_TIMEOUT_S = 5.0
OBSTACLE = None if find_spec("ray") else "ray is not installed: pip install 'dualpath-testbed[ray]'"


class RayLab:
    """A cluster that is up. Each host is a node, and has a custom resource of its own, 'host-NAME'.

    Files are in ``directory``; Ray's own, whose sockets need a short path, in ``sessions``.
    """

    def __init__(self, cluster: EmulatedCluster, directory: Path, sessions: Path) -> None:
        self.cluster = cluster
        self.hosts = {host.name: host for host in cluster.hosts}
        self.directory = directory
        self.sessions = sessions
        self.home = directory / "home"
        self.inventory = directory / "rack.toml"
        self.address = f"{cluster.control_address}:{PORT}"
        self.prefix = ("nsenter", f"--net={self._namespace('control')}", "--")
        # Processes end with the thread that starts them: not the caller's, who may be ``inside``.
        self.starter = ThreadPoolExecutor(1)

    def inside(self, action: Callable[[], None]) -> None:
        """Call something on the control node: in a thread that is on its network."""
        self.cluster._namespaces["control"].run(action)

    def start_head(self) -> None:
        """The cluster itself, and a node that nothing is placed on by itself; until it takes connections."""
        own = ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]
        process = self._start("control", self.cluster.control_address, own)
        self._until(process, "control", self._listens)

    def start(self, name: str) -> Popen[bytes]:
        """Start a host's node; it has joined when its raylet says so (`until_joined`)."""
        own = [f"--address={self.address}", "--num-cpus=1", f"--labels=rack=lab,host={name}"]
        own += [f"--resources={json.dumps({f'host-{name}': 1})}"]
        return self._start(name, self.hosts[name].management_address, own)

    def start_again(self, name: str) -> None:
        """A host's node, after all of it was killed; until it can be used."""
        self.until_joined(name, self.start(name))

    def node_id(self, name: str) -> str:
        """What Ray calls a host's node."""
        address = self.hosts[name].management_address
        script = (
            "import ray, sys; ray.init(sys.argv[1], log_to_driver=False);"
            "print(*(n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeName'] == sys.argv[2]))"
        )
        command = [*self.prefix, sys.executable, "-c", script, self.address, address]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=READY_TIMEOUT_S)
        return done.stdout.strip()

    def until_joined(self, name: str, process: Popen[bytes]) -> None:
        """Wait until a node that was started can be used."""
        self._until(process, name, lambda: "Ray runtime started" in self.log(name).read_text())

    def log(self, name: str) -> Path:
        """What a node's `ray start` says."""
        return self.directory / f"{name}.ray.log"

    def processes(self, name: str) -> list[psutil.Process]:
        """All that runs in a host's namespace, or in that of 'control'."""
        wanted = os.stat(self._namespace(name)).st_ino
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.NoSuchProcess):
                if os.stat(f"/proc/{process.pid}/ns/net").st_ino == wanted:
                    found.append(process)
        return found

    def kill(self, name: str, named: str = "") -> None:
        """SIGKILL processes of a host, those whose names begin so, or all that run there."""
        _kill([process for process in self.processes(name) if process.name().startswith(named)])

    def write_inventory(
        self, file: Path, hosts: Mapping[str, Mapping[str, Any]] | None = None, **launcher: Any
    ) -> Path:
        """An inventory of all hosts, with changes to ``hosts`` by name and to the launcher section."""
        document = {
            "scale": "experiment",
            "control_address": self.cluster.control_address,
            "directory": str(self.home),
            "python": sys.executable,
            "launcher": {"kind": "ray", "address": self.address} | launcher,
            "storage": {"url": self.cluster.storage_url},
            "hosts": [
                self._described(host) | (hosts or {}).get(host.name, {}) for host in self.hosts.values()
            ],
        }
        file.write_text(tomli_w.dumps(document))
        return file

    def _described(self, host: ClusterHost) -> dict[str, Any]:
        described: dict[str, Any] = {
            "name": host.name,
            "role": host.role,
            "address": host.management_address,
            "node": host.management_address,
        }
        if host.role == "storage":
            return described | {"storage": {"mount": str(self.cluster.storage_root)}}
        nics = {nic.network: {"name": nic.name, "address": nic.address} for nic in host.nics}
        return described | {"storage_nic": nics["storage"], "compute_nics": [nics["compute"]]}

    def _namespace(self, name: str) -> str:
        return self.cluster._namespaces[name].path

    def _start(self, name: str, address: str, own: list[str]) -> Popen[bytes]:
        argv = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            "--disable-usage-stats",
            *own,
        ]
        argv += [f"--node-ip-address={address}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        argv += [f"--temp-dir={self.sessions / name}"]
        processes = self.cluster._processes
        self.log(name).unlink(missing_ok=True)
        return self.starter.submit(processes.spawn, argv, self._namespace(name), self.log(name)).result()

    def _listens(self) -> bool:
        def connects() -> bool:
            try:
                with socket.create_connection((self.cluster.control_address, PORT), timeout=1):
                    return True
            except OSError:
                return False

        return self.cluster._namespaces["control"].run(connects)

    def _until(self, process: Popen[bytes], name: str, condition: Callable[[], bool]) -> None:
        end_at = time.monotonic() + READY_TIMEOUT_S
        while not condition():
            said = self.log(name).read_text() if self.log(name).exists() else ""
            assert process.poll() is None, f"ray of {name} ended with {process.returncode}: {said}"
            assert time.monotonic() < end_at, f"ray of {name} is not up: {said}"
            time.sleep(0.05)


@contextmanager
def ray_lab(directory: Path, spec: ClusterSpec = SPEC) -> Iterator[RayLab]:
    """The cluster, up; at the end all of it is gone but ``directory``."""
    sessions = Path(tempfile.mkdtemp(prefix="ray-"))
    try:
        with EmulatedCluster(spec, scratch_parent=directory, state_dir=directory / "state") as cluster:
            lab = RayLab(cluster, directory, sessions)
            try:
                lab.home.mkdir()
                lab.start_head()
                started = {name: lab.start(name) for name in lab.hosts}
                for name, process in started.items():
                    lab.until_joined(name, process)
                lab.write_inventory(lab.inventory)
                yield lab
            finally:
                _kill([process for name in ("control", *lab.hosts) for process in lab.processes(name)])
                lab.starter.shutdown()
    finally:
        shutil.rmtree(sessions, ignore_errors=True)


def _kill(processes: list[psutil.Process]) -> None:
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
