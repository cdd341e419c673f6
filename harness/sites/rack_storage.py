"""A run's own place in a rack's KV store: made on its hosts, and removed with all that is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from harness.bundle import Installed
from harness.cluster import RunClaim
from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost
from harness.launchers import Launcher

_MAKE_TIMEOUT_S = 30.0
_REMOVE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class RackStorage:
    """Over the hosts' launcher, with the modules that are ``installed`` there."""

    launcher: Launcher
    inventory: Inventory
    installed: Mapping[str, Installed]
    claim: RunClaim

    @asynccontextmanager
    async def made(self) -> AsyncIterator[None]:
        """The place, there meanwhile; what cannot be removed leaves the run's record for a clean-up."""
        client = self._client()
        try:
            await leftovers(self.launcher, self.inventory, client, self.installed, "make", self.claim.run_id)
            yield
        finally:
            try:
                await leftovers(
                    self.launcher, self.inventory, client, self.installed, "remove", self.claim.run_id
                )
            except HostError:
                self.claim.incomplete = True

    def _client(self) -> InventoryHost:
        """Who writes what is read, and so may remove it."""
        return (self.inventory.of_role("storage") or list(self.inventory.hosts))[0]


async def leftovers(
    launcher: Launcher,
    inventory: Inventory,
    host: InventoryHost,
    installed: Mapping[str, Installed],
    action: str,
    run_id: str,
) -> list[str]:
    """`hosts.leftovers` on a host; what it removed, a line each. Raises HostError."""
    place = inventory.storage_of(host)
    where = ("--mount", place.mount) if place.mount else ("--url", place.url)
    argv = installed[host.name].argv("hosts.leftovers", action, run_id, *where)
    timeout_s = _MAKE_TIMEOUT_S if action == "make" else _REMOVE_TIMEOUT_S
    done = await launcher.run(host.name, argv, timeout_s=timeout_s)
    if done.status != 0:
        raise HostError(host.name, done.stderr.decode(errors="replace").strip() or f"{action} failed")
    return done.stdout.decode(errors="replace").splitlines()
