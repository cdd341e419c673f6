"""`Launcher` over Slurm: a job step a command, on the node of its host.

What is guaranteed: a command ends with its step: when the stdin of its srun ends, as it does with this
process, when the job ends, at its timeout, and at the latest after the lease of `harness.launchers.remote`.
A process that has left its process group is on its own, unless the cluster tracks processes by control
groups.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from harness.host_error import HostError
from harness.launchers.base import Completed
from harness.launchers.remote import BEAT, BEAT_S, put_line, run_line, start_line
from harness.launchers.slurm.allocation import Allocation
from harness.launchers.slurm.step import Step
from harness.launchers.words import cannot_put, how_it_ended, not_put, shown, took_too_long, unknown_host

STEPS_AT_A_TIME = 16
"""Of commands that end: each costs slurmctld a few messages and this machine an srun."""


class SlurmHosts:
    """`Launcher` on the nodes of an allocation; ``nodes`` by host."""

    kind = "slurm"

    def __init__(self, nodes: Mapping[str, str], allocation: Allocation) -> None:
        self.hosts: Sequence[str] = tuple(nodes)
        self._nodes = nodes
        self._allocation = allocation
        self._at_a_time = asyncio.Semaphore(STEPS_AT_A_TIME)
        self._running: set[SlurmProcess] = set()
        self._beats: asyncio.Task[None] | None = None

    async def run(
        self, host: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Completed:
        """See `Launcher.run`."""
        word = _word()
        async with self._step(host, run_line(argv, len(stdin), timeout_s, word), word) as step:
            try:
                async with asyncio.timeout(timeout_s):
                    await step.feed(stdin)
                    await step.wait()
            except TimeoutError:
                raise took_too_long(host, argv, timeout_s) from None
            if step.status is None:
                raise HostError(host, f"lost while {shown(argv)} ran: {step.why_lost}")
            return Completed(step.status, step.stdout, step.stderr)

    async def put(self, host: str, source: Path, destination: str, *, timeout_s: float = 120.0) -> None:
        """See `Launcher.put`."""
        word = _word()
        line = put_line(os.stat(source).st_size, destination, timeout_s, word)
        async with self._step(host, line, word) as step:
            try:
                async with asyncio.timeout(timeout_s):
                    await step.feed_file(source)
                    await step.wait()
            except TimeoutError:
                raise cannot_put(host, destination, f"not done within {timeout_s:g} s") from None
            if step.status is None:
                raise cannot_put(host, destination, f"host lost: {step.why_lost}")
            if step.status != 0:
                raise not_put(host, destination, step.stderr)

    async def start(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdin: bytes,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> SlurmProcess:
        """See `Launcher.start`. A step that cannot begin is told of by `Started.wait`."""
        node = self._node(host)
        log.parent.mkdir(parents=True, exist_ok=True)
        word = _word()
        line = start_line(argv, len(stdin), environment or {}, word)
        with log.open("ab") as output:
            step = await Step.begin(self._allocation.job_id, node, line, word, output.fileno())
        started = SlurmProcess(step, stdin)
        self._running.add(started)
        started.ended.add_done_callback(lambda _: self._running.discard(started))
        if self._beats is None:
            self._beats = asyncio.create_task(self._beat())
        return started

    async def close(self) -> None:
        """See `Launcher.close`; an allocation that was made for it is given back."""
        try:
            await asyncio.gather(*(started.kill() for started in self._running))
        finally:
            if self._beats is not None:
                self._beats.cancel()
            await self._allocation.close()

    @asynccontextmanager
    async def _step(self, host: str, line: str, word: str) -> AsyncIterator[Step]:
        """A step, which at the end is over."""
        node = self._node(host)
        async with self._at_a_time:
            step = await Step.begin(self._allocation.job_id, node, line, word)
            try:
                yield step
            finally:
                await step.end()

    def _node(self, host: str) -> str:
        if host not in self._nodes:
            raise unknown_host(host, self.hosts)
        return self._nodes[host]

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for started in self._running:
                started.beat()


class SlurmProcess:
    """`Started` by `SlurmHosts`. ``ended`` is done when the process has ended, whoever waits for it."""

    def __init__(self, step: Step, stdin: bytes) -> None:
        self._step = step
        self._feeding = asyncio.create_task(step.feed(stdin))
        self._killed = False
        self.ended = asyncio.create_task(self._until_ended())

    async def wait(self) -> str:
        """See `Started.wait`."""
        return await asyncio.shield(self.ended)

    def beat(self) -> None:
        """Let it go on for another lease."""
        self._step.write(BEAT)

    async def kill(self) -> None:
        """End it, and wait until it has; no longer than a few seconds."""
        self._killed = True
        await self._step.end()
        await self.wait()

    async def _until_ended(self) -> str:
        await self._step.wait()
        await self._feeding
        await self._step.end()
        if self._step.status is None:
            return how_it_ended(-signal.SIGKILL) if self._killed else f"lost: {self._step.why_lost}"
        return how_it_ended(self._step.status)


def _word() -> str:
    """One that no command says by chance."""
    return secrets.token_hex(8)
