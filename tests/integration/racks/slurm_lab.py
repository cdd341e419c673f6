"""A rack behind Slurm: an emulated cluster, slurmctld on its control node, a slurmd on every host.

with slurm_lab(directory) as lab:
    lab.inside(lambda: asyncio.run(...))                       # on the control node
    subprocess.run([*lab.prefix, "dualpath", ..., lab.inventory])

What several slurmds on one machine need (slurm.conf(5), cgroup.conf(5)): a host name each, spool and pid file
by node, and no accounting or tracking by cgroups, of which they would share one tree.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from harness.cluster import ClusterSpec
from harness.cluster.emulated import EmulatedCluster
from racks.base import SPEC, RackLab

READY_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 10.0
POLL_S = 0.05
_DAEMONS = ("munged", "slurmctld", "slurmd")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

# In the mount namespace that every host has, whose fresh sysfs hides the cgroups that slurmd looks for; with
# the host's own directory, and its name. Arguments: own directory, home, host name.
_HOST = """\
umount /sys && mount -t tmpfs tmpfs /run && mkdir /run/cgroup && mount --rbind /sys/fs/cgroup /run/cgroup &&
mount -t sysfs sysfs /sys && mount --rbind /run/cgroup /sys/fs/cgroup && mount --bind "$1" "$2" &&
exec unshare --uts -- sh -c 'hostname "$0" && exec slurmd -D -N "$0"' "$3"
"""
_CGROUPS_V1 = Path("/sys/fs/cgroup/freezer")
_FIRST_WITHOUT_CGROUPS = (23, 11)

_CONFIGURATION = """\
ClusterName=lab
SlurmctldHost={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}
CredType=cred/munge
StateSaveLocation={directory}/state-slurm
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
ReturnToService=2
SlurmdTimeout=10
KillWait=5
"""


def obstacle() -> str | None:
    """Why there can be no Slurm here, or None."""
    for daemon in (*_DAEMONS, "srun"):
        if shutil.which(daemon, path=_PATH) is None:
            return f"{daemon} is not installed: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd starts commands as their users, which needs root"
    if not _CGROUPS_V1.exists() and _version() < _FIRST_WITHOUT_CGROUPS:
        return "slurmd before 23.11 wants control groups of version 1, or a systemd to ask for others"
    return None


def _version() -> tuple[int, ...]:
    said = subprocess.run(["slurmd", "-V"], env={"PATH": _PATH}, capture_output=True, text=True).stdout
    return tuple(int(part) for part in said.split()[-1].split(".")[:2])


class SlurmLab(RackLab):
    """A rack that is up. Slurm's commands find it by SLURM_CONF, which `slurm_lab` sets for this process.

    Every host has a directory of its own, ``directory``/hosts/NAME, and sees it as ``home``, which is the
    inventory's.
    """

    def __init__(self, cluster: EmulatedCluster, directory: Path, sockets: Path) -> None:
        super().__init__(cluster, directory)
        self.config = directory / "slurm.conf"
        self.launcher = {"kind": "slurm", "time_limit": 5}
        self._munge_socket = sockets / "munge"

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints on the control node."""
        done = subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self) -> list[str]:
        """Ids of the jobs that are pending or run, or are just ending."""
        return self.ask("squeue", "--noheader", "--format=%A").split()

    def until(self, condition: Callable[[], object], what: str, within_s: float = READY_TIMEOUT_S) -> None:
        """Wait until something is so in Slurm, which tells of nothing by itself."""
        end_at = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < end_at, f"not within {within_s:g} s: {what}; {self.logs()}"
            time.sleep(POLL_S)

    def logs(self) -> str:
        """The last lines of what the daemons say."""
        return "\n".join(
            f"{log.name}: {log.read_text()[-1000:]}" for log in sorted(self.directory.glob("*.log"))
        )

    def start(self) -> None:
        """The daemons, until every node is idle."""
        (self.directory / "state-slurm").mkdir()
        self._write_configuration()
        key = self.directory / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        munged = ["munged", "--foreground", "--force", f"--socket={self._munge_socket}", f"--key-file={key}"]
        munged += [f"--{name}-file={self.directory}/munge.{name}" for name in ("pid", "seed")]
        self._spawn("control", munged, "munged")
        self.until(self._munge_socket.exists, "munged's socket")
        self._spawn("control", ["slurmctld", "-D"], "slurmctld")
        for name in self.hosts:
            own = self.directory / "hosts" / name
            own.mkdir(parents=True)
            self._spawn(name, ["sh", "-c", _HOST, "sh", str(own), str(self.home), name], f"slurmd-{name}")
        self.until(self._all_idle, "all nodes are idle")

    def _write_configuration(self) -> None:
        hosts = self.hosts.values()
        nodes = [
            f"NodeName={host.name} NodeAddr={host.management_address} NodeHostname={host.name} CPUs=2"
            for host in hosts
        ]
        control = f"{socket.gethostname()}({self.cluster.control_address})"
        self.config.write_text(
            _CONFIGURATION.format(control=control, directory=self.directory, munge=self._munge_socket)
            + "".join(f"{line}\n" for line in nodes)
            + f"PartitionName=all Nodes={','.join(self.hosts)} Default=YES MaxTime=60\n"
        )
        plugin = "cgroup/v1" if _CGROUPS_V1.exists() else "disabled"
        (self.directory / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")

    def _spawn(self, name: str, argv: Sequence[str], log: str) -> None:
        command = [shutil.which(argv[0], path=_PATH) or argv[0], *argv[1:]]
        environment = {"SLURM_CONF": str(self.config), "PATH": _PATH}
        self.starter.submit(
            self.cluster._processes.spawn,
            command,
            self.namespace(name),
            self.directory / f"{log}.log",
            environment,
        ).result()

    def _all_idle(self) -> bool:
        done = subprocess.run(
            [*self.prefix, "sinfo", "--noheader", "--Node", "--format=%t"],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        return done.returncode == 0 and done.stdout.split() == ["idle"] * len(self.hosts)


@contextmanager
def slurm_lab(directory: Path, spec: ClusterSpec = SPEC) -> Iterator[SlurmLab]:
    """The rack, up; at the end all of it is gone but ``directory``."""
    with (
        TemporaryDirectory(prefix="munge-") as sockets,  # whose paths have to be short (unix(7))
        EmulatedCluster(spec, scratch_parent=directory, state_dir=directory / "state") as cluster,
        pytest.MonkeyPatch.context() as environment,
    ):
        lab = SlurmLab(cluster, directory, Path(sockets))
        environment.setenv("SLURM_CONF", str(lab.config))
        try:
            lab.start()
            lab.write_inventory(lab.inventory)
            yield lab
        finally:
            lab.close()


OBSTACLE = obstacle()
