"""Work on the hosts ends as soon as one of them does, and that one is named."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from harness.control import uninterrupted
from harness.deployment import Deployment
from harness.host_error import HostError
from harness.launchers.local import LocalProcess


def watched(deployment: Deployment, program: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, process_group=0)
    deployment.watch("p0", "agent", LocalProcess(process))
    return process


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_the_result_comes_through_while_all_live() -> None:
    async def test() -> None:
        deployment = Deployment()
        with watched(deployment, "input()") as process:
            assert await deployment.guard(asyncio.sleep(0, "done")) == "done"
            process.kill()

    run(test())


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"killed by signal 9\)$"),
        ("raise SystemExit(4)", r"exit status 4\)$"),
    ],
)
def test_the_end_of_a_process_cancels_the_work(program: str, how: str) -> None:
    async def test() -> None:
        deployment, cancelled = Deployment(), asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        with (
            watched(deployment, program),
            pytest.raises(HostError, match=r"^host p0: its agent process ended \(" + how),
        ):
            await deployment.guard(work())
        assert cancelled.is_set()

    run(test())


def test_a_complaint_that_comes_before_the_loss_it_is_due_to_does_not_win() -> None:
    async def test() -> None:
        deployment = Deployment()
        with watched(deployment, "input()") as process:

            async def work() -> None:
                asyncio.get_running_loop().call_later(0.05, process.kill)
                raise HostError("d0", "connection to p0 reset")

            with pytest.raises(HostError, match="host p0: its agent process ended"):
                await deployment.guard(work())

    run(test())


def test_a_failure_without_a_loss_is_raised_as_it_is() -> None:
    async def test() -> None:
        deployment = Deployment()
        with watched(deployment, "input()") as process:

            async def work() -> None:
                raise HostError("d0", "out of memory")

            with pytest.raises(HostError, match="host d0: out of memory"):
                await deployment.guard(work())
            process.kill()

    run(test())


def test_uninterrupted_work_ends_before_a_cancellation_does() -> None:
    async def test() -> None:
        steps: list[str] = []
        gate = asyncio.Event()

        async def clean_up() -> None:
            await gate.wait()
            steps.append("cleaned up")

        task = asyncio.create_task(uninterrupted(clean_up()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == ["cleaned up"]

    run(test())
