"""What starts processes on hosts: placement and supervision, never the measured traffic.

A launcher is somebody else's engine behind five methods: `local` (the emulated cluster's own processes),
sshd, Slurm, Ray. Deployment, preflight and clean-up are written once, over this interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended. ``status``: its exit status, negative for the signal that ended it; 127 if
    there is no such command, which ``stderr`` says."""

    status: int
    stdout: bytes
    stderr: bytes


class Started(Protocol):
    """A process that runs on a host until it ends, or its launcher is closed, or the control node dies."""

    async def wait(self) -> str:
        """How it ended, in words, once it has: ``exit status 1``, ``killed by signal 9``, or how its host
        was lost. Any number of callers; cancelling one leaves the process running."""
        ...


class Launcher(Protocol):
    """Runs commands on hosts, by the names that the inventory gives them. Open between ``open`` and `close`.

    Every method raises `HostError` that names the host: for one that is not known, cannot be reached, refuses
    the user or whose key is unknown, with the reason in words and what to do about it. Arguments reach the
    command as they are, spaces, quotes and all; secrets go by ``stdin``, never by arguments or environment,
    which others on the host can read.
    """

    @property
    def kind(self) -> str:
        """Its name in an inventory."""
        ...

    @property
    def hosts(self) -> Sequence[str]:
        """Those it can reach, in the inventory's order."""
        ...

    async def run(
        self, host: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Completed:
        """Run a command to its end; one that takes longer than ``timeout_s`` is ended, and an error.

        What it leaves in its process group ends with it, as with ``start``.
        """
        ...

    async def put(self, host: str, source: Path, destination: str, *, timeout_s: float = 120.0) -> None:
        """Copy a file to an absolute path on the host, whole or not at all; its folder must exist.

        A second caller may copy the same content there at the same time.
        """
        ...

    async def start(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdin: bytes,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Started:
        """Start a command that goes on running; ``stdin`` is all that it reads there, then its end.

        What it prints is appended to ``log`` on this machine as it comes; the log's folder is made.
        ``environment`` is added to what the host gives a command by itself.
        """
        ...

    async def close(self) -> None:
        """End everything that was started and is still running, then let go of the hosts. Never raises for a
        host that is gone."""
        ...
