"""Hosts that are this machine's own processes, each in its network namespace where the cluster has them.

The emulated cluster owns the hosts; its processes die with the control node, whatever ends that (prctl(2),
PDEATHSIG of the thread that starts them).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.cluster import Cluster
from harness.cluster.processes import wait_zombie
from harness.host_error import HostError
from harness.launchers.base import Completed
from harness.launchers.words import cannot_put, how_it_ended, shown, took_too_long, unknown_host

_PIECE_BYTES = 1 << 20


class LocalLauncher:
    """`Launcher` on a cluster that is up. Use it from the thread that entered the cluster."""

    kind = "local"

    def __init__(self, cluster: Cluster) -> None:
        self.hosts: Sequence[str] = tuple(host.name for host in cluster.hosts)
        self._cluster = cluster
        self._running: set[LocalProcess] = set()

    async def run(
        self, host: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Completed:
        """See `Launcher.run`."""
        # Files in memory take any amount of output, and nobody has to read while the command runs.
        outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
        try:
            process = self._start(host, argv, stdin, outputs[0], outputs[1], None)
            try:
                async with asyncio.timeout(timeout_s):
                    await wait_zombie(process)
            except TimeoutError:
                raise took_too_long(host, argv, timeout_s) from None
            finally:
                status = _end(process)
            return Completed(status, *map(_content, outputs))
        finally:
            for output in outputs:
                os.close(output)

    async def put(self, host: str, source: Path, destination: str, *, timeout_s: float = 120.0) -> None:
        """See `Launcher.put`: all hosts have this machine's files."""
        self._check(host)
        try:
            await asyncio.to_thread(_copy, source, Path(destination), time.monotonic() + timeout_s)
        except TimeoutError:
            raise cannot_put(host, destination, f"not done within {timeout_s:g} s") from None
        except OSError as error:
            raise cannot_put(host, destination, error.strerror or str(error)) from error

    async def start(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdin: bytes,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> LocalProcess:
        """See `Launcher.start`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = self._start(host, argv, stdin, output.fileno(), subprocess.STDOUT, environment)
        started = LocalProcess(process)
        self._running.add(started)
        started.end.add_done_callback(lambda _: self._running.discard(started))
        return started

    async def close(self) -> None:
        """See `Launcher.close`. The hosts are the cluster's and stay."""
        running = list(self._running)
        for started in running:
            started.kill()
        await asyncio.gather(*(started.wait() for started in running))

    def _start(
        self,
        host: str,
        argv: Sequence[str],
        stdin: bytes,
        stdout: int,
        stderr: int,
        environment: Mapping[str, str] | None,
    ) -> subprocess.Popen[bytes]:
        self._check(host)
        try:
            return self._cluster.start(host, argv, stdin, stdout, stderr, environment)
        except OSError as error:
            raise HostError(host, f"cannot start {shown(argv)}: {error}") from error

    def _check(self, host: str) -> None:
        if host not in self.hosts:
            raise unknown_host(host, self.hosts)


class LocalProcess:
    """`Started` by a `LocalLauncher`. ``end`` is done when the process has ended, whoever waits for it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.end = asyncio.create_task(self._until_ended())

    async def wait(self) -> str:
        """See `Started.wait`."""
        return await asyncio.shield(self.end)

    def kill(self) -> None:
        """End it, and what is in its process group."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _until_ended(self) -> str:
        await wait_zombie(self._process)
        return how_it_ended(_end(self._process))


def _end(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL for what is left of a process and its group; its status. It must not have been reaped: the
    group's id could be another's by now."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _content(output: int) -> bytes:
    os.lseek(output, 0, os.SEEK_SET)
    with open(output, "rb", closefd=False) as file:
        return file.read()


def _copy(source: Path, destination: Path, end_at: float) -> None:
    draft = destination.with_name(f"{destination.name}.{secrets.token_hex(4)}.part")
    try:
        with source.open("rb") as original, draft.open("xb") as copy:
            while piece := original.read(_PIECE_BYTES):
                if time.monotonic() > end_at:
                    raise TimeoutError
                copy.write(piece)
        draft.replace(destination)
    finally:
        with suppress(OSError):  # its folder may be missing, or the file be in place
            draft.unlink()
