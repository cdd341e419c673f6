"""Which host of an inventory measures kernels, and that it says whose it is meanwhile."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from harness.bundle import Installed
from harness.calibration import on_host
from harness.calibration.on_host import host_of, measured_on
from harness.experiment import ExperimentError
from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost, SshLauncher
from harness.launchers.base import Completed
from hosts import claim
from hosts.bench import kernels
from hosts.bench.kernels import Kernels, Measured
from hosts.claim import Claim, ClaimedError, claimed

RACK = Inventory(
    name="r",
    launcher=SshLauncher(),
    hosts=(
        InventoryHost(name="s0", role="storage"),
        InventoryHost(name="d0", role="decode"),
        InventoryHost(name="p0", role="prefill"),
        InventoryHost(name="p1", role="prefill"),
    ),
)


@pytest.mark.parametrize(("name", "expected"), [("", "p0"), ("p1", "p1"), ("d0", "d0")])
def test_the_one_that_is_named_or_the_first_that_prefills(name: str, expected: str) -> None:
    assert host_of(RACK, name).name == expected


def test_one_that_is_not_there() -> None:
    with pytest.raises(
        ExperimentError, match=r"--host: found 'p9' in inventory r, expected one of s0, d0, p0, p1"
    ):
        host_of(RACK, "p9")


NOTHING = Kernels("toy-latent", "cpu", "", (), (), 0.1, 1)
ALICE = Claim("0123abcd", "alice", "2026-01-02T03:04:05+00:00", "10.0.0.1")
BOB = Claim("feedbeef", "bob", "2026-01-02T03:05:06+00:00", "10.0.0.2")


def test_a_host_is_claimed_and_one_that_a_run_holds_says_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Kernels] = []

    class InUse:
        async def run(self, host: str, argv: Sequence[str], *, timeout_s: float) -> Completed:
            asked.append(msgspec.json.decode(argv[-1], type=Kernels))
            return Completed(1, b"", f"in use by {ALICE}; fix: wait for its end\n".encode())

    @asynccontextmanager
    async def launcher(inventory: Inventory) -> AsyncIterator[InUse]:
        yield InUse()

    async def deployed(*_: Any, **__: Any) -> dict[str, Installed]:
        return {"p1": Installed("/d", "e")}

    monkeypatch.setattr(on_host, "open_launcher", launcher)
    monkeypatch.setattr(on_host, "deploy_bundle", deployed)
    with pytest.raises(HostError, match=r"p1: in use by run 0123abcd of alice on 10\.0\.0\.1"):
        measured_on(RACK, host_of(RACK, "p1"), lambda line: None, NOTHING)
    [there] = asked
    assert there.claim is not None
    assert there.claim.user == getpass.getuser()


@pytest.fixture
def _own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "NAME", f"\0dualpath-test-{os.getpid()}")
    told = msgspec.structs.replace(NOTHING, claim=BOB)
    monkeypatch.setattr(sys, "argv", ["kernels", msgspec.json.encode(told).decode()])


@pytest.mark.usefixtures("_own_name")
def test_what_measures_refuses_a_host_that_is_held() -> None:
    async def test() -> None:
        async with claimed(ALICE):
            with pytest.raises(SystemExit, match="in use by run 0123abcd of alice"):
                await asyncio.to_thread(kernels.main)

    asyncio.run(test())


@pytest.mark.usefixtures("_own_name")
def test_what_measures_holds_the_host_and_tells_who_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def alice_too() -> None:
        async with claimed(ALICE):
            pass

    def measuring(_: Kernels) -> Measured:
        with pytest.raises(ClaimedError, match="in use by run feedbeef of bob"):
            asyncio.run(alice_too())
        return Measured("a test's", "none", 1.0, (), ())

    monkeypatch.setattr(kernels, "_measured", measuring)
    assert kernels.main() == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Measured).device == "a test's"
    asyncio.run(alice_too())
