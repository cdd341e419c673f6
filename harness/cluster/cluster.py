"""What either kind of cluster offers the harness, from ``with open_cluster(...)`` to its end."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.cluster.errors import ClusterError
from harness.cluster.ledger import RunClaim
from harness.cluster.modes import Mode
from harness.cluster.processes import RunProcesses
from harness.cluster.topology import ClusterSpec, Nic, Role
from hosts.config import CacheMode


@dataclass(frozen=True)
class ClusterHost:
    """A host that is up. ``namespace`` is a path for ``nsenter --net=``, None where there is none.

    An address is '' on a network the host is not on (the storage host has no compute NIC). ``rdma_device``
    is that of its compute NIC, '' where it has none of its own.
    """

    name: str
    role: Role
    management_address: str
    storage_address: str
    compute_address: str
    nics: tuple[Nic, ...]
    namespace: str | None
    rdma_device: str = ""


class Cluster(ABC):
    """A cluster, up between ``__enter__`` and ``__exit__``; its attributes are valid meanwhile.

    ``hosts``: the storage host, then prefill and decode hosts. ``control_address``: where servers of the
    harness listen. ``storage_url``: ``storage_root`` over HTTP, '' if there is no server.
    ``storage_processes``: the end of one of these is the end of the run. ``storage_pace_bytes_per_s`` and
    ``compute_pace_bytes_per_s``: what the agents have to pace themselves to, 0 where the links do it.

    ``cache``: whether reads come from memory ("page") or the disk ("direct", O_DIRECT). ``scratch_parent``:
    where blocks are stored; ``state_dir``: where runs are recorded; both have defaults.

    Leaving stops every process of the run and frees everything, after a failure half-way too; the first
    error is the one raised. Start processes and leave from the thread that entered.
    """

    mode: Mode
    control_address: str
    storage_url: str = ""
    storage_pace_bytes_per_s: float = 0.0
    compute_pace_bytes_per_s: float = 0.0

    def __init__(
        self,
        spec: ClusterSpec,
        *,
        cache: CacheMode = "page",
        scratch_parent: Path | None = None,
        state_dir: Path | None = None,
    ) -> None:
        self.spec = spec
        self.hosts: tuple[ClusterHost, ...] = ()
        self.storage_processes: tuple[subprocess.Popen[bytes], ...] = ()
        self._cache: CacheMode = cache
        self._claim = RunClaim(state_dir, scratch_parent)
        self._processes = RunProcesses(self._claim.run_id)
        self._resources = ExitStack()

    @property
    def run_id(self) -> str:
        """Eight hexadecimal digits that everything of this run carries."""
        return self._claim.run_id

    @property
    def scratch(self) -> Path:
        """The run's directory for temporary files, gone at the end."""
        return self._claim.scratch

    @property
    def storage_root(self) -> Path:
        """The directory that is stored; to prepare a run, write to it directly."""
        return self.scratch / "storage"

    @property
    def storage_log(self) -> Path:
        """The storage server's own log; empty or absent where there is no server."""
        return self.scratch / "storage.log"

    def host(self, name: str) -> ClusterHost:
        """The host of that name; ClusterError if there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise ClusterError(f"host {name!r}: not in the cluster, which has {[h.name for h in self.hosts]}")

    def spawn(
        self, host: str, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``argv`` on a host, output appended to ``log``; it ends with the cluster or the harness."""
        return self._processes.spawn(argv, self.host(host).namespace, log, env)

    def start(
        self,
        host: str,
        argv: Sequence[str],
        stdin: bytes,
        stdout: int,
        stderr: int,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """As ``spawn``, with something to read and its output to open files; OSError when it fails."""
        return self._processes.start(argv, self.host(host).namespace, stdin, stdout, stderr, env)

    def __enter__(self) -> Self:
        try:
            with ExitStack() as resources:
                resources.enter_context(self._claim)
                resources.callback(self._processes.kill_all)
                self.storage_root.mkdir()
                self._set_up(resources)
                self._resources = resources.pop_all()
        except OSError as error:
            raise ClusterError(f"cannot set up the cluster: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._resources.close()
        except (ClusterError, OSError) as teardown_error:
            if error is None:
                raise
            error.add_note(f"taking the cluster down failed, too: {teardown_error}")

    @abstractmethod
    def _set_up(self, resources: ExitStack) -> None:
        """Make the hosts; whatever ``resources`` holds is freed in reverse, on failure too."""

    @abstractmethod
    def enter_control_namespace(self) -> None:
        """Move the calling thread to the control node until the cluster is left.

        Call it before servers are opened: threads and processes started afterwards are there, too, and
        the machine's own networks are out of reach.
        """
