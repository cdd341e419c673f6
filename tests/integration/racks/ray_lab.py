"""A Ray cluster to test against: its head where the control node is, and a node in every host's namespace.

with ray_lab(directory) as lab:
    lab.inside(lambda: asyncio.run(...))                       # on the control node
    subprocess.run([*lab.prefix, "dualpath", ..., lab.inventory])
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import Any

from harness.cluster import ClusterHost, ClusterSpec
from harness.cluster.emulated import EmulatedCluster
from racks.base import SPEC, RackLab, kill

PORT = 6379
OBJECT_STORE_BYTES = 80 << 20
READY_TIMEOUT_S = 60.0
OBSTACLE = None if find_spec("ray") else "ray is not installed: pip install 'dualpath-testbed[ray]'"


class RayLab(RackLab):
    """A cluster that is up. Each host is a node, and has a custom resource of its own, 'host-NAME'.

    Files are in ``directory``; Ray's own, whose sockets need a short path, in ``sessions``.
    """

    def __init__(self, cluster: EmulatedCluster, directory: Path, sessions: Path) -> None:
        super().__init__(cluster, directory)
        self.sessions = sessions
        self.python = sys.executable
        self.address = f"{cluster.control_address}:{PORT}"
        self.launcher = {"kind": "ray", "address": self.address}

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

    def kill(self, name: str, named: str = "") -> None:
        """SIGKILL processes of a host, those whose names begin so, or all that run there."""
        kill([process for process in self.processes(name) if process.name().startswith(named)])

    def _described(self, host: ClusterHost) -> dict[str, Any]:
        return super()._described(host) | {"node": host.management_address}

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
        return self.starter.submit(processes.spawn, argv, self.namespace(name), self.log(name)).result()

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
                lab.start_head()
                started = {name: lab.start(name) for name in lab.hosts}
                for name, process in started.items():
                    lab.until_joined(name, process)
                lab.write_inventory(lab.inventory)
                yield lab
            finally:
                kill(lab.processes("control"))
                lab.close()
    finally:
        shutil.rmtree(sessions, ignore_errors=True)
