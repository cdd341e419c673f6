"""A rack behind sshd: an emulated cluster, a real sshd in every host's namespace, and their inventory.

with sshd_lab(directory) as lab:
    lab.inside(lambda: asyncio.run(...))                       # on the control node
    subprocess.run([*lab.prefix, "dualpath", ..., lab.inventory])
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncssh
import psutil

from harness.cluster import ClusterHost, ClusterSpec
from harness.cluster.emulated import EmulatedCluster
from racks.base import SPEC, RackLab, kill

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
READY_TIMEOUT_S = 10.0


def obstacle() -> str | None:
    """Why there can be no sshd here, or None."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        return "sshd is not installed: apt-get install openssh-server openssh-client"
    if os.geteuid() == 0 and _password_of("root").startswith("!"):
        return (
            "root is locked ('!' in /etc/shadow), and sshd without PAM lets no locked user in: usermod -p '*'"
        )
    return None


def _password_of(user: str) -> str:
    lines = (line.split(":") for line in Path("/etc/shadow").read_text().splitlines())
    return next((fields[1] for fields in lines if fields[0] == user), "")


class SshdLab(RackLab):
    """A rack that is up. ``key`` is the user's, that ``inventory`` names with ``known_hosts``.

    Every host has a directory of its own, ``directory``/hosts/NAME, and sees it as ``home``, which is the
    inventory's. What runs with ``prefix`` has a /run of its own, ``control_run``: runs are recorded there.
    ``apart``: a host has its own process ids and sees no other's processes.
    """

    def __init__(self, cluster: EmulatedCluster, directory: Path, *, apart: bool = False) -> None:
        super().__init__(cluster, directory)
        self.key = directory / "id_ed25519"
        self.known_hosts = directory / "known_hosts"
        self.launcher = {
            "kind": "ssh",
            "user": "root",
            "key": str(self.key),
            "known_hosts": str(self.known_hosts),
        }
        self._inits: dict[str, psutil.Process] = {}
        self._apart = apart
        self.control_run = directory / "run"
        self.control_run.mkdir()
        own_run = ("unshare", "--mount", "--", "sh", "-c", 'mount --bind "$0" /run && exec "$@"')
        self.prefix = (*self.prefix, *own_run, str(self.control_run))

    def start(self, name: str, *config: str) -> None:
        """Start a host's sshd, with more lines for its sshd_config(5) in front, and wait until it answers."""
        host = self.hosts[name]
        file = self.directory / f"{name}.sshd_config"
        file.write_text("".join(f"{line}\n" for line in (*config, *self._config(host))))
        log = self.log(name)
        sshd = [str(SSHD), "-D", "-e", "-f", str(file)]
        command = self._inside_host(name, sshd) if self._apart else self._set_up_host(name, sshd)
        process = self._spawn(name, command)
        end_at = time.monotonic() + READY_TIMEOUT_S
        while not self._answers(host):
            with suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"sshd of {name} ended with {process.wait(0.01)}: {log.read_text()}")
            assert time.monotonic() < end_at, f"sshd of {name} does not answer: {log.read_text()}"

    def _set_up_host(self, name: str, command: Sequence[str]) -> list[str]:
        """Run ``command`` with what a host's mount namespace is to have: sshd's directory, and its own."""
        setting = (
            'mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && mount --bind "$1" "$2" && shift 2 && '
            'exec "$@"'
        )
        own = self.directory / "hosts" / name
        own.mkdir(parents=True, exist_ok=True)
        return ["sh", "-c", setting, "sh", str(own), str(self.home), *command]

    def _inside_host(self, name: str, command: Sequence[str]) -> list[str]:
        """Run ``command`` below a host's init(1), which is there from the first time on."""
        if name not in self._inits:
            # Its children's ends are ignored: the kernel reaps them (wait(2)). It says when all is set up.
            init = ["sh", "-c", 'trap "" CHLD; echo ready; exec sleep infinity']
            unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
            parent = psutil.Process(self._spawn(name, self._set_up_host(name, [*unshare, *init])).pid)
            _await(lambda: "ready" in self.log(name).read_text(), f"init of {name}")
            [self._inits[name]] = parent.children()
        return ["nsenter", f"--target={self._inits[name].pid}", "--mount", "--pid", "--", *command]

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return self.starter.submit(self.cluster.spawn, name, command, self.log(name)).result()

    def log(self, name: str) -> Path:
        """What a host's sshd says."""
        return self.directory / f"{name}.sshd.log"

    def kill_sshd(self, name: str) -> None:
        """SIGKILL a host's sshd and what it has forked for each connection; commands are left."""
        kill([process for process in self.processes(name) if process.name() == "sshd"])

    def restart_storage(self) -> None:
        """Start the storage server again."""
        self.starter.submit(self.cluster._start_storage).result()

    def _config(self, host: ClusterHost) -> Sequence[str]:
        host_key = self.directory / f"{host.name}.host_key"
        if not host_key.exists():
            public = write_key(host_key)
            with self.known_hosts.open("a") as file:
                file.write(f"{host.management_address} {public}")
        return (
            f"ListenAddress {host.management_address}",
            f"HostKey {host_key}",
            f"AuthorizedKeysFile {self.directory}/authorized_keys",
            # bash looks into ~/.bashrc for sshd unless it seems to be inside another shell. That file is this
            # machine's, with a PATH of its own, and the hosts are to have none.
            "SetEnv SHLVL=1",
            "PidFile none",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "MaxStartups 100",
            "LogLevel VERBOSE",
        )

    def _answers(self, host: ClusterHost) -> bool:
        def greeting() -> bytes:
            try:
                with socket.create_connection((host.management_address, 22), timeout=1) as connection:
                    return connection.recv(4)
            except OSError:
                return b""

        return self.cluster._namespaces["control"].run(greeting) == b"SSH-"


def write_key(file: Path) -> str:
    """A new private key in a file; its public line."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    file.touch(mode=0o600)
    file.write_bytes(key.export_private_key())
    return key.export_public_key().decode()


@contextmanager
def sshd_lab(
    directory: Path, spec: ClusterSpec = SPEC, store: Path | None = None, *, apart: bool = False
) -> Iterator[SshdLab]:
    """The rack, up, its KV store below ``store`` or ``directory``; at the end all of it is gone but these."""
    with EmulatedCluster(spec, scratch_parent=store or directory, state_dir=directory / "state") as cluster:
        lab = SshdLab(cluster, directory, apart=apart)
        try:
            (directory / "authorized_keys").write_text(write_key(lab.key))
            for name in lab.hosts:
                lab.start(name)
            lab.write_inventory(lab.inventory)
            yield lab
        finally:
            lab.close()


def _await(condition: Callable[[], bool], what: str) -> None:
    end_at = time.monotonic() + READY_TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_at, f"{what}: not within {READY_TIMEOUT_S:g} s"
        time.sleep(0.01)


OBSTACLE = obstacle()
