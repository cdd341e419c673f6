"""The launcher on a Ray cluster, by a driver process of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.host_error import HostError
from harness.launchers.base import Completed
from harness.launchers.ray.driver_process import Answers, DriverProcess
from harness.launchers.ray.messages import Answer, Done, Ended, Lost, Reach, Run, Start
from harness.launchers.remote import put_line, run_line, start_line
from harness.launchers.words import cannot_put, not_put, took_too_long, unknown_host


class RayHosts:
    """`Launcher` on the hosts of an inventory; the driver is its own from now on."""

    kind = "ray"

    def __init__(self, hosts: Sequence[str], driver: DriverProcess) -> None:
        self.hosts: Sequence[str] = tuple(hosts)
        self._driver = driver
        self._running: set[RayProcess] = set()

    async def run(
        self, host: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Completed:
        """See `Launcher.run`; placing an actor is not part of the time."""
        await self._reach(host)
        try:
            done = await self._run(Run(host, run_line(argv, len(stdin), timeout_s), stdin), timeout_s)
        except TimeoutError:
            raise took_too_long(host, argv, timeout_s) from None
        return Completed(done.status, done.stdout, done.stderr)

    async def put(self, host: str, source: Path, destination: str, *, timeout_s: float = 120.0) -> None:
        """See `Launcher.put`."""
        await self._reach(host)
        line = put_line(os.stat(source).st_size, destination, timeout_s)
        try:
            done = await self._run(Run(host, line, source=str(source)), timeout_s)
        except TimeoutError:
            raise cannot_put(host, destination, f"not done within {timeout_s:g} s") from None
        if done.status != 0:
            raise not_put(host, destination, done.stderr)

    async def start(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdin: bytes,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> RayProcess:
        """See `Launcher.start`."""
        self._check(host)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.open("ab").close()  # what is wrong with it is the caller's to hear
        line = start_line(argv, len(stdin), environment or {})
        with ExitStack() as stack:
            answers = stack.enter_context(self._driver.call(Start(host, line, stdin, str(log))))
            await _answer(host, answers)
            started = RayProcess(answers, stack.pop_all())
        self._running.add(started)
        started.end.add_done_callback(lambda _: self._running.discard(started))
        return started

    async def close(self) -> None:
        """See `Launcher.close`."""
        await self._driver.close()
        await asyncio.gather(*(started.wait() for started in self._running))

    def _check(self, host: str) -> None:
        if host not in self.hosts:
            raise unknown_host(host, self.hosts)

    async def _reach(self, host: str) -> None:
        self._check(host)
        with self._driver.call(Reach(host)) as answers:
            await _answer(host, answers)

    async def _run(self, request: Run, timeout_s: float) -> Done:
        with self._driver.call(request) as answers:
            async with asyncio.timeout(timeout_s):
                answer = await _answer(request.host, answers)
        assert isinstance(answer, Done)
        return answer


class RayProcess:
    """`Started` by `RayHosts`. ``end`` is done when the process has ended, whoever waits for it."""

    def __init__(self, answers: Answers, call: ExitStack) -> None:
        self.end = asyncio.create_task(self._until_ended(answers, call))

    async def wait(self) -> str:
        """See `Started.wait`."""
        return await asyncio.shield(self.end)

    async def _until_ended(self, answers: Answers, call: ExitStack) -> str:
        with call:
            answer = await answers.get()
        if isinstance(answer, Lost):
            return f"lost: {answer.reason}"
        assert isinstance(answer, Ended)
        return answer.how


async def _answer(host: str, answers: Answers) -> Answer:
    """The next answer, if it is no bad one."""
    answer = await answers.get()
    if isinstance(answer, Lost):
        raise HostError(host, answer.reason)
    return answer
