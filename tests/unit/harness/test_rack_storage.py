"""A run's place in the KV store is removed by whoever still can, or it is said that it may not be gone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from nginx_server import NGINX, nginx

from harness.cluster.ledger import RunClaim
from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost, SshLauncher, StoragePlace
from harness.launchers import Completed
from harness.sites.rack_storage import RackStorage
from hosts.leftovers import stored_name

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")


class Here:
    """A launcher, and a bundle, of hosts that are this machine, but for those that are ``dead``."""

    def __init__(self, dead: Sequence[str] = ()) -> None:
        self.dead = dead
        self.asked: list[tuple[str, str]] = []

    def argv(self, module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    async def run(self, host: str, argv: Sequence[str], *, timeout_s: float) -> Completed:
        self.asked.append((host, argv[3]))
        if argv[3] == "remove" and host in self.dead:
            raise HostError(host, "lost")
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, timeout=timeout_s)
        return Completed(done.returncode, done.stdout, done.stderr)


def use(here: Here, mount: Path, url: str, claim: RunClaim) -> None:
    """A run that stores something, through the mount and through the server."""
    of_storage = InventoryHost(
        name="s0", role="storage", address="s0", storage=StoragePlace(mount=str(mount))
    )
    others = [InventoryHost(name=name, role="decode", address=name) for name in ("d0", "d1", "d2")]
    inventory = Inventory(hosts=(*others, of_storage), launcher=SshLauncher(), storage=StoragePlace(url=url))
    installed = {host.name: here for host in inventory.hosts}
    storage = RackStorage(here, inventory, installed, claim)  # type: ignore[arg-type]

    async def run() -> None:
        async with storage.made():
            (mount / stored_name(claim.run_id) / "block").write_bytes(b"x")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("dead", "removed_by"),
    [((), ["s0", "d0"]), (("d0",), ["s0", "d0", "d1"])],
    ids=["all well", "the first one lost"],
)
def test_it_is_removed_in_every_view_of_the_store(
    tmp_path: Path, dead: Sequence[str], removed_by: list[str]
) -> None:
    here = Here(dead)
    with nginx(tmp_path) as (_, url), RunClaim(tmp_path / "state", tmp_path, "") as claim:
        use(here, tmp_path / "root", url, claim)
        assert claim.left == ""
    assert here.asked == [("s0", "make"), *((host, "remove") for host in removed_by)]
    assert list((tmp_path / "root").iterdir()) == []
    assert not (tmp_path / "state").exists()


def test_a_server_that_is_gone_may_have_kept_something(tmp_path: Path) -> None:
    here = Here()
    with nginx(tmp_path) as (server, url), RunClaim(tmp_path / "state", tmp_path, "") as claim:
        server.kill()
        server.wait()
        use(here, tmp_path / "root", url, claim)
        assert claim.left.startswith("what it stored may not all be gone (host d1: delete of 'dualpath-")
        assert "Connection refused" in claim.left
        assert claim.left.endswith("'dualpath cleanup' removes it when that is over")
    assert list((tmp_path / "root").iterdir()) == []  # by the storage host, all the same
    assert [file.stem for file in (tmp_path / "state").iterdir()] == [claim.run_id]
