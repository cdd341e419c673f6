"""A bundle onto hosts that lack it: what is not there is uploaded, then the host installs and tries it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.bundle.host_calls import Found, HostCalls
from harness.bundle.on_all import on_all
from harness.host_error import HostError
from harness.launchers import Launcher

_AGENT = "hosts.agent"
_UPLOADS = 2
_UPLOAD_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Installer:
    """Installs one bundle. ``wheels``: for each host that lacks it, files by the hash of their bytes."""

    launcher: Launcher
    calls: HostCalls
    bundle: str
    wheels: Mapping[str, Mapping[str, Path]]

    async def install(self, found: Mapping[str, Found]) -> None:
        """Install on all of them; raises HostError.

        Of hosts that share a directory one goes first, and the others find there what it brought.
        """
        pioneers: dict[str, str] = {}
        for host, here in found.items():
            pioneers.setdefault(here.store, host)
        followers = [host for host, here in found.items() if pioneers[here.store] != host]
        for hosts in (list(pioneers.values()), followers):
            await on_all(hosts, lambda host: self._install(host, found[host].directory))

    async def _install(self, host: str, directory: str) -> None:
        files = self.wheels[host]
        lacking = await self.calls.install(host, directory, self.bundle, files, _AGENT)
        for _ in range(_UPLOADS):
            if not lacking.needed:
                return
            needed_bytes = unpacked_bytes(files[sha256] for sha256 in lacking.needed)
            if needed_bytes > lacking.free_bytes:
                raise HostError(
                    host,
                    f"found {lacking.free_bytes / 2**20:.0f} MiB free in {directory}, expected "
                    f"{needed_bytes / 2**20:.0f} for the bundle; fix: free some, or name another 'directory' "
                    "in the inventory",
                )
            for sha256 in lacking.needed:
                destination = f"{directory}/bundles/incoming/{sha256}"
                await self.launcher.put(host, files[sha256], destination, timeout_s=_UPLOAD_TIMEOUT_S)
            lacking = await self.calls.install(host, directory, self.bundle, files, _AGENT)
        if lacking.needed:
            names = ", ".join(files[sha256].name for sha256 in lacking.needed)
            raise HostError(
                host,
                f"{names} in {directory}/bundles was {_UPLOADS} times not what had been sent; fix: look at "
                "that disk and at the link to this host",
            )


def unpacked_bytes(wheels: Iterable[Path]) -> int:
    """What wheels need on a disk while they are unpacked: themselves and their content."""
    total = 0
    for path in wheels:
        with zipfile.ZipFile(path) as wheel:
            total += path.stat().st_size + sum(member.file_size for member in wheel.infolist())
    return total
