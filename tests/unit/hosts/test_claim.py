"""A host belongs to one run at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest
from in_process_hosts import config

from hosts import claim as claim_module
from hosts.agent import Agent
from hosts.claim import Claim, ClaimedError, claimed
from hosts.protocol import Envelope, Failed

ALICE = Claim("0123abcd", "alice", "2026-01-02T03:04:05+00:00", "10.0.0.1")
BOB = Claim("feedbeef", "bob", "2026-01-02T03:05:06+00:00", "10.0.0.2")


@pytest.fixture(autouse=True)
def _own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_module, "NAME", f"\0dualpath-test-{os.getpid()}")


def test_the_second_is_told_who_was_first() -> None:
    async def test() -> None:
        async with claimed(ALICE):
            with pytest.raises(
                ClaimedError,
                match=r"in use by run 0123abcd of alice on 10\.0\.0\.1, since 2026-01-02T03:04:05",
            ):
                async with claimed(BOB):
                    pass
        async with claimed(BOB):
            pass

    asyncio.run(test())


def test_a_holder_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_module, "_ASK_TIMEOUT_S", 0.05)

    async def test() -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(claim_module.NAME)
            other.listen()
            with pytest.raises(ClaimedError, match="in use by somebody who does not say who"):
                async with claimed(BOB):
                    pass

    asyncio.run(test())


def test_the_kernel_frees_what_a_killed_process_held() -> None:
    program = (
        "import asyncio, sys; from hosts import claim; claim.NAME = chr(0) + sys.argv[1]\n"
        "async def hold():\n"
        f"    async with claim.claimed(claim.Claim{(*ALICE.__struct_fields__,)!r}):\n"
        "        print('held', flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(hold())"
    )

    async def try_it() -> None:
        async with claimed(BOB):
            pass

    command = [sys.executable, "-c", program, claim_module.NAME[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ClaimedError):
            asyncio.run(try_it())
        holder.send_signal(signal.SIGKILL)
    asyncio.run(try_it())


def test_an_agent_says_who_has_its_host_and_no_more() -> None:
    async def test() -> None:
        said: list[Envelope] = []
        agent = Agent("d0", said.append)
        async with claimed(ALICE):
            await agent._answer(Envelope(1, config("d0", claim=BOB)))
        (answer,) = said
        assert isinstance(answer.body, Failed)
        assert (answer.body.host, answer.id) == ("d0", 1)
        assert answer.body.reason.startswith("in use by run 0123abcd of alice on 10.0.0.1, since 2026-01-02T")

    asyncio.run(test())
