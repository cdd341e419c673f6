"""Processes of a run: started in a namespace, dead when the harness is, found again by the run's id.

Every process carries ``DUALPATH_RUN_ID`` in its environment and its children inherit it, so that
"ours" is answered by the process itself (proc(5), environ), not by a list that could be out of date.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cluster.errors import ClusterError
from hosts.leftovers import KILL_TIMEOUT_S, RUN_ID_VARIABLE, LeftoverError, kill_run

# The parent may end between fork and setpriv; then nothing would ever send the signal. A shell reads
# its parent's id at its start, that is after setpriv has asked for the signal, and so closes the gap.
_STILL_CHILD = '[ "$PPID" = "$0" ] || exit 125; exec "$@"'

# A mounted sysfs goes on showing the interfaces of the namespace that mounted it; UCX looks for them there.
_OWN_SYSFS = 'mount -t sysfs sysfs /sys; exec "$@"'


def command_line(argv: Sequence[str], namespace: str | None, parent_pid: int) -> list[str]:
    """``argv`` wrapped to run in a namespace and to be killed when ``parent_pid`` ends (prctl(2), PDEATHSIG).

    Each wrapper replaces itself, so the process id is that of ``argv``. Works unchanged without privileges.
    """
    tied = ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", _STILL_CHILD, str(parent_pid)]
    if namespace is None:
        return [*tied, *argv]
    inside = ["nsenter", f"--net={namespace}", "--"]
    return [*tied, *inside, "unshare", "--mount", "--", "sh", "-c", _OWN_SYSFS, "sh", *argv]


class RunProcesses:
    """Owner of one run's processes.

    The kernel ties a process to the thread that started it: call ``spawn`` from one that lasts.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._started: list[subprocess.Popen[bytes]] = []

    def spawn(
        self, argv: Sequence[str], namespace: str | None, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``argv`` in a network namespace (None: the caller's), its output appended to ``log``.

        ``env`` is added to the harness's own environment. Raises ClusterError when it cannot be started.
        """
        if shutil.which(argv[0]) is None:
            raise ClusterError(f"{argv[0]}: no such command to start on a host")
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                return self.start(argv, namespace, b"", output.fileno(), subprocess.STDOUT, env)
        except OSError as error:
            raise ClusterError(f"cannot start {argv[0]} with log {log}: {error}") from error

    def start(
        self,
        argv: Sequence[str],
        namespace: str | None,
        stdin: bytes,
        stdout: int,
        stderr: int,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """As ``spawn``, output to open files, and ``stdin`` all that it reads there; OSError when it fails.

        The process leads its own process group, so a Ctrl-C at the terminal reaches the harness alone. Like
        a shell's, a command that does not exist ends with 127 and says so.
        """
        source = os.memfd_create("stdin")
        try:
            with open(source, "r+b", closefd=False) as file:
                file.write(stdin)
            os.lseek(source, 0, os.SEEK_SET)
            process = subprocess.Popen(
                command_line(argv, namespace, os.getpid()),
                stdin=source,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **(env or {}), RUN_ID_VARIABLE: self.run_id},
                process_group=0,
            )
        finally:
            os.close(source)
        self._started.append(process)
        return process

    def kill_all(self) -> None:
        """SIGKILL every process of the run, children of children too, and reap those started here.

        Raises ClusterError for one that outlives it by 5 s.
        """
        for process in self._started:
            # Not reaped, so the process id, and its group's, is still its own.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        try:
            kill_run(self.run_id)
        except LeftoverError as error:
            raise ClusterError(str(error)) from None
        for process in self._started:
            try:
                process.wait(KILL_TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                raise ClusterError(
                    f"process {process.pid} outlived SIGKILL by {KILL_TIMEOUT_S:g} s"
                ) from error


async def wait_exit(process: subprocess.Popen[bytes]) -> int:
    """The exit status, negative for a signal, once ``process`` has ended; cancelling leaves it running."""
    if process.poll() is None:
        await wait_zombie(process)
    return process.wait()


async def wait_zombie(process: subprocess.Popen[bytes]) -> None:
    """Until ``process`` has ended, not reaping it: its id, and its group's, stay its own."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    pidfd = os.pidfd_open(process.pid)
    try:
        loop.add_reader(pidfd, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
