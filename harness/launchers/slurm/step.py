"""A job step: one command on one node, by an srun of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.launchers.remote import command_status
from harness.launchers.slurm import commands

_PIECE_BYTES = 1 << 18
_EXPORTED = "PATH,HOME,USER,LOGNAME,LANG"
"""What a command gets of our environment; all of it would be more than others on the host should read."""
_END_TIMEOUT_S = 5.0


class Step:
    """An srun, and how the command that it runs has ended: its ``status`` is known once ``wait`` is over, or
    None if nobody has told it, and then ``why_lost``.

    srun has words and statuses of its own. They are kept apart: what the command says on stderr goes to
    another file than what srun says, and of a command's end only its ``word`` there counts. Files in memory
    take any amount of output, and nobody has to read while the command runs.
    """

    @classmethod
    async def begin(cls, job_id: str, node: str, line: str, word: str, stdout: int | None = None) -> Step:
        """Start one, of a shell's line; ``stdout`` is an open file, by default one in memory."""
        files = [os.memfd_create(name) for name in ("stdout", "stderr", "words")]
        try:
            srun = await commands.begin(
                "srun",
                f"--jobid={job_id}",
                f"--nodelist={node}",
                "--nodes=1",
                "--ntasks=1",
                "--overlap",  # with other commands on that node
                "--mem=0",
                "--cpu-bind=none",
                "--mpi=none",
                f"--export={_EXPORTED}",
                "--chdir=/",
                f"--error=/proc/self/fd/{files[1]}",
                "--quiet",
                *("/bin/sh", "-c", line),
                stdout=files[0] if stdout is None else stdout,
                stderr=files[2],
                pass_fds=files[1:2],
            )
        except BaseException:
            _close(files)
            raise
        return cls(srun, word.encode(), files)

    def __init__(self, srun: asyncio.subprocess.Process, word: bytes, files: Sequence[int]) -> None:
        assert srun.stdin is not None
        self._srun, self._stdin, self._word, self._files = srun, srun.stdin, word, files
        self.status: int | None = None
        self.stdout = self.stderr = b""
        self.why_lost = ""

    async def wait(self) -> None:
        """Until it is over, and all that the command has said is here. Any number of callers."""
        await self._srun.wait()
        files, self._files = self._files, ()
        if files:
            self.stdout, stderr, words = map(_content, files)
            _close(files)
            self.stderr, mark, status = stderr.rpartition(self._word + b" ")
            if mark:
                self.status = command_status(int(status.split()[0]))
            else:
                self.why_lost = commands.reason(stderr + words) or "srun ended without a word"

    def write(self, content: bytes) -> None:
        """To its stdin, if it is still there."""
        with suppress(OSError):
            self._stdin.write(content)

    async def feed(self, content: bytes) -> None:
        """To its stdin, until that is taken or nobody wants it any more."""
        with suppress(OSError):
            self._stdin.write(content)
            await self._stdin.drain()

    async def feed_file(self, source: Path) -> None:
        """A file's content, as with ``feed``, and its end."""
        with suppress(OSError), source.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                self._stdin.write(piece)
                await self._stdin.drain()
        self._stdin.close()

    async def end(self) -> None:
        """Close its stdin, by which the command ends, and wait for that no longer than some seconds."""
        if not self._stdin.is_closing():
            self._stdin.transport.abort()  # what has not been taken by now is nothing to wait for
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_TIMEOUT_S):
                    await self._srun.wait()
                break
            with suppress(ProcessLookupError):
                self._srun.send_signal(number)
        await self.wait()


def _content(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, "rb", closefd=False) as opened:
        return opened.read()


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)
