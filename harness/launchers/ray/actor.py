"""The actor on a node: runs command lines there. Ray sends this module by value, so it may import nothing that
a bare Python does not have.
"""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

STDOUT, STDERR = 1, 2
_PIECE_BYTES = 1 << 16
"""Of output; Ray passes less than 100 kB on without its object store."""


class HostShell:
    """Shells on one host, by their process ids, each in a session of its own.

    A shell whose stdin ends has to end by itself: then all end with this process, whatever ends that.
    """

    def __init__(self) -> None:
        self._shells: dict[int, Process] = {}
        _be_like(os.getppid())

    async def ready(self) -> None:
        """Answered once there is an actor."""

    async def run(self, line: str, stdin: bytes) -> AsyncIterator[int | tuple[int, bytes]]:
        """Run a line by sh(1): its process id, then pieces of output with where they come from, then its status.

        Its stdin stays open after ``stdin``, for `feed`.
        """
        # Commands get what the node was started with, not what Ray gives its workers (OMP_NUM_THREADS=1).
        shell = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            line,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=_environment_of(os.getppid()),
            start_new_session=True,
        )
        assert shell.stdin is not None
        self._shells[shell.pid] = shell
        try:
            shell.stdin.write(stdin)
            yield shell.pid
            async for piece in _outputs(shell):
                yield piece
            yield await shell.wait()
        finally:
            del self._shells[shell.pid]
            shell.stdin.close()

    async def feed(self, shell_id: int, piece: bytes) -> None:
        """Write more to a shell's stdin, or with nothing end it; none of it matters to one that has ended."""
        shell = self._shells.get(shell_id)
        if shell is None or shell.stdin is None:
            return
        with suppress(OSError):
            if piece:
                shell.stdin.write(piece)
                await shell.stdin.drain()
            else:
                shell.stdin.close()

    async def end(self, shell_id: int) -> None:
        """Tell a shell to end, and with it what it runs."""
        if (shell := self._shells.get(shell_id)) is not None:
            with suppress(ProcessLookupError):
                shell.terminate()
            await self.feed(shell_id, b"")


async def _outputs(shell: Process) -> AsyncIterator[tuple[int, bytes]]:
    """Both outputs as they come, until both have ended."""
    pieces: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(1)

    async def read(channel: int, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while piece := await stream.read(_PIECE_BYTES):
            await pieces.put((channel, piece))
        await pieces.put((channel, b""))

    readers = [asyncio.create_task(read(*of)) for of in ((STDOUT, shell.stdout), (STDERR, shell.stderr))]
    try:
        left = len(readers)
        while left:
            channel, piece = await pieces.get()
            if piece:
                yield channel, piece
            else:
                left -= 1
    finally:
        for reader in readers:
            reader.cancel()


def _environment_of(raylet: int) -> dict[bytes, bytes]:
    variables = Path(f"/proc/{raylet}/environ").read_bytes().split(b"\0")
    return dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)


def _be_like(raylet: int) -> None:
    """Undo what Ray does to its workers, which commands would inherit: it makes them nice, and the first to be
    killed when memory is short. Only root can."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, raylet))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(Path(f"/proc/{raylet}/oom_score_adj").read_bytes())
