"""The emulated cluster's launcher where there are no namespaces: plain processes. See tests/contract, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import ClusterSpec, open_cluster
from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost, SshLauncher
from harness.launchers import open_launcher
from harness.launchers.local import LocalLauncher
from harness.launchers.words import shown

SPEC = ClusterSpec(1, 1, storage_nic_bytes_per_s=12.5e6, compute_nic_bytes_per_s=25e6)


def over(directory: Path, test: Callable[[LocalLauncher], Coroutine[Any, Any, None]]) -> None:
    async def run(launcher: LocalLauncher) -> None:
        async with asyncio.timeout(30):
            await test(launcher)
            await launcher.close()

    with open_cluster(SPEC, "loopback", scratch_parent=directory, state_dir=directory / "state") as cluster:
        asyncio.run(run(LocalLauncher(cluster)))


def test_without_namespaces(tmp_path: Path) -> None:
    async def test(launcher: LocalLauncher) -> None:
        assert launcher.hosts == ("storage", "p0", "d0")
        done = await launcher.run("p0", ["sh", "-c", "cat; echo err >&2; exit 4"], stdin=b"in")
        assert (done.status, done.stdout, done.stderr) == (4, b"in", b"err\n")
        log = tmp_path / "logs" / "log"
        started = await launcher.start("d0", ["sh", "-c", "cat; kill -9 $$"], stdin=b"in", log=log)
        assert await started.wait() == "killed by signal 9"
        assert log.read_bytes() == b"in"

    over(tmp_path, test)


def test_a_host_where_nothing_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    async def test(launcher: LocalLauncher) -> None:
        monkeypatch.setattr(launcher._cluster, "start", fail)
        with pytest.raises(HostError, match=r"^host p0: cannot start true: .*temporarily unavailable"):
            await launcher.run("p0", ["true"])

    over(tmp_path, test)


def test_a_library_that_is_missing_is_an_error_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_it() -> None:
        async with open_launcher(Inventory(hosts=(InventoryHost("p0", "prefill"),), launcher=SshLauncher())):
            pytest.fail("opened all the same")

    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'asyncssh'", name="asyncssh")

    monkeypatch.setattr("harness.launchers._open", missing)
    with pytest.raises(
        HostError, match=r"^host control: asyncssh is not installed; fix: pip install asyncssh"
    ):
        asyncio.run(open_it())


def test_a_command_in_a_message_is_a_line_that_is_not_too_long() -> None:
    assert shown(["sh", "-c", "echo 'a\nb'"]) == """sh -c 'echo '"'"'a b'"'"''"""
    assert len(shown(["x" * 1000])) < 100
