"""The actor on a node: runs command lines there.

Ray sends this module by value: it may import nothing that a bare Python does not have.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import cast

STDIN, STDOUT, STDERR = 0, 1, 2
# A worker that loses its raylet kills its children, and nobody would be left to end what they run. So that is
# a shell in between; the signal is for the one that runs the line, of the same process group.
_IN_BETWEEN = 'trap : TERM; sh -c "$1"; exit "$?"'


class HostShell:
    """Shells on one host, known by their process ids, each in a session of its own.

    They are to end when their stdin does: so they end with this process, whatever ends that.
    """

    def __init__(self) -> None:
        self._shells: dict[int, _Shell] = {}
        _be_like(os.getppid())

    async def ready(self) -> None:
        """Answered once there is an actor."""

    async def run(self, line: str, stdin: bytes) -> AsyncIterator[int | tuple[int, bytes]]:
        """Run a line by sh(1): its process id, then its outputs piece by piece as they come, then its status.

        Its stdin stays open after ``stdin``, for `feed`.
        """
        loop = asyncio.get_running_loop()
        # Commands get what the node was started with, not what Ray gives its workers (OMP_NUM_THREADS=1).
        transport, shell = await loop.subprocess_exec(
            _Shell,
            "sh",
            "-c",
            _IN_BETWEEN,
            "sh",
            line,
            env=_environment_of(os.getppid()),
            start_new_session=True,
        )
        shell_id = transport.get_pid()
        self._shells[shell_id] = shell
        try:
            shell.stdin.write(stdin)
            yield shell_id
            while not isinstance(result := await shell.results.get(), int):
                yield result
            yield result
        finally:
            del self._shells[shell_id]
            transport.close()

    async def feed(self, shell_id: int, piece: bytes) -> None:
        """Write more to a shell's stdin, or with nothing end it; none of it matters to one that has ended."""
        if (shell := self._shells.get(shell_id)) is None:
            return
        if piece:
            shell.stdin.write(piece)
            await shell.writable.wait()
        else:
            shell.stdin.close()

    async def end(self, shell_id: int) -> None:
        """Tell a shell to end, and with it what it runs."""
        if (shell := self._shells.get(shell_id)) is not None:
            with suppress(ProcessLookupError):
                os.killpg(shell_id, signal.SIGTERM)
            shell.stdin.close()


class _Shell(asyncio.SubprocessProtocol):
    """One shell, as asyncio tells of it. ``results`` are its outputs, then its status."""

    def __init__(self) -> None:
        self.results: asyncio.Queue[int | tuple[int, bytes]] = asyncio.Queue()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.SubprocessTransport, transport)

    @property
    def stdin(self) -> asyncio.WriteTransport:
        return cast(asyncio.WriteTransport, self.transport.get_pipe_transport(STDIN))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.results.put_nowait((fd, data))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == STDIN:
            self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def process_exited(self) -> None:
        # What watches our end of stdin beside the command would hold it open.
        self.stdin.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, and so have its outputs."""
        status = self.transport.get_returncode()
        assert status is not None
        self.results.put_nowait(status)


def _environment_of(raylet: int) -> dict[bytes, bytes]:
    variables = Path(f"/proc/{raylet}/environ").read_bytes().split(b"\0")
    return dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)


def _be_like(raylet: int) -> None:
    """Undo what Ray does to its workers and commands would inherit: it makes them nice, and the first to be
    killed when memory is short. Where it did so only root can."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, raylet))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(Path(f"/proc/{raylet}/oom_score_adj").read_bytes())
