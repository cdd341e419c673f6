"""A run's own place in a rack's KV store: made on its hosts, and removed with all that is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from harness.bundle import Installed
from harness.cluster import RunClaim
from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost, StoragePlace
from harness.launchers import Launcher

_MAKE_TIMEOUT_S = 30.0
_REMOVE_TIMEOUT_S = 300.0
_TRIES = 2
"""The first host may be what the run failed of."""


@dataclass(frozen=True, slots=True)
class RackStorage:
    """Over the hosts' launcher, with the modules that are ``installed`` there."""

    launcher: Launcher
    inventory: Inventory
    installed: Mapping[str, Installed]
    claim: RunClaim

    @asynccontextmanager
    async def made(self) -> AsyncIterator[None]:
        """The place, there meanwhile; what cannot be removed makes the run's record stay for a clean-up."""
        [writers, *_] = self._views()
        try:
            await self._leftovers(writers[0], "make")
            yield
        finally:
            await self._remove()

    async def _remove(self) -> None:
        """In every view of the store: a server that has removed it has nothing more under way that would
        bring a part of it back. Where one host fails, by another."""
        self.claim.left = ""  # whatever an earlier attempt had to leave
        for hosts in self._views():
            for host in hosts[:_TRIES]:
                try:
                    await self._leftovers(host, "remove")
                    break
                except HostError as error:
                    reason = error
            else:
                self.claim.left = (
                    f"what it stored may not all be gone ({reason}); 'dualpath cleanup' removes it when that "
                    "is over"
                )

    def _views(self) -> list[list[InventoryHost]]:
        """Hosts by how they see the store, those first who write what is read."""
        views: dict[StoragePlace, list[InventoryHost]] = {}
        for host in sorted(self.inventory.hosts, key=lambda host: host.role != "storage"):
            views.setdefault(self.inventory.storage_of(host), []).append(host)
        return list(views.values())

    async def _leftovers(self, host: InventoryHost, action: str) -> None:
        await leftovers(self.launcher, self.inventory, host, self.installed, action, self.claim.run_id)


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
