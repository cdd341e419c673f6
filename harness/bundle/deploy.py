"""Bundles on hosts: deployed where they are not there yet, pruned where nobody has used them for long."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.bundle.code_wheel import code_wheel
from harness.bundle.host_calls import PROGRAM, Found, HostCalls, Installed
from harness.bundle.installer import Installer
from harness.bundle.lock import lock_text
from harness.bundle.on_all import on_all, raise_together
from harness.bundle.wheelhouse import HostKind, WheelhouseError, prune_wheelhouse, wheelhouse, wheels_for
from harness.host_error import HostError
from harness.inventory import Inventory
from harness.launchers import Launcher

PRUNE_AFTER_DAYS = 14.0
_OLDEST_PYTHON = (3, 11)


async def deploy_bundle(
    launcher: Launcher, inventory: Inventory, *, progress: Callable[[str], None]
) -> dict[str, Installed]:
    """Bring what an agent needs to every host of the launcher that has not got it.

    1. Name the bundle: a hash over our code, the lock of all the rest, and the program that installs them.
    2. Look at all hosts at once. One where the bundle is whole has cost this one call.
    3. Refuse hosts that cannot have it, all of them at once.
    4. Fetch wheels for the kinds of hosts that lack it.
    5. Upload what is not there, and install.

    ``progress`` gets a line for each phase. Raises HostError; before step 5 nothing has been uploaded.
    """
    code, lock = code_wheel(), lock_text()
    bundle = _sha256("".join(map(_sha256, (code, lock.encode(), PROGRAM))).encode())
    calls = HostCalls(launcher, inventory)
    found = await on_all(launcher.hosts, lambda host: calls.look(host, bundle))
    _refuse({host: reason for host, here in found.items() if (reason := _unsuitable(here))})
    lacking = {host: here for host, here in found.items() if not here.complete}
    progress(f"bundle {bundle[:12]} is on {len(found) - len(lacking)} of {len(found)} hosts")
    if lacking:
        wheels = await _fetch(lacking, lock, progress)
        with TemporaryDirectory(dir=wheelhouse(), prefix="code-") as scratch:
            ours = {_sha256(code): _written(Path(scratch, "code.whl"), code)}
            files = {host: {**ours, **wheels[_kind(here)]} for host, here in lacking.items()}
            progress(f"installing it on {len(lacking)} hosts, uploading what is missing there")
            await Installer(launcher, calls, bundle, files).install(lacking)
    return {host: Installed(here.directory, here.environment) for host, here in found.items()}


async def prune_bundles(
    launcher: Launcher, inventory: Inventory, *, unused_days: float = PRUNE_AFTER_DAYS
) -> list[str]:
    """Remove what was last used so long ago, from all hosts and from this machine's wheelhouse; a line each.

    A bundle that somebody runs from stays. Raises HostError once the other hosts have been dealt with.
    """
    unused_s = unused_days * 86400
    removed = prune_wheelhouse(unused_s)
    calls = HostCalls(launcher, inventory)
    pruned = await on_all(launcher.hosts, lambda host: calls.prune(host, unused_s))
    return removed + [f"host {host}: {line}" for host, answer in pruned.items() for line in answer.removed]


async def _fetch(
    lacking: Mapping[str, Found], lock: str, progress: Callable[[str], None]
) -> dict[HostKind, Mapping[str, Path]]:
    """Wheels by kind of host; one HostError about all the hosts for which there are none."""
    wheels: dict[HostKind, Mapping[str, Path]] = {}
    refused: dict[str, str] = {}
    for kind in sorted({_kind(here) for here in lacking.values()}):
        progress(f"wheels for {kind}")
        try:
            wheels[kind] = await wheels_for(kind, lock)
        except WheelhouseError as error:
            refused |= {host: str(error) for host, here in lacking.items() if _kind(here) == kind}
    _refuse(refused)
    return wheels


def _unsuitable(here: Found) -> str:
    """Why this host cannot have a bundle, with the fix, or nothing."""
    fix = "fix: install one, or name it as 'python' in the inventory"
    if tuple(map(int, here.python.split(".")[:2])) < _OLDEST_PYTHON:
        return f"found Python {here.python}, expected 3.11 or newer; {fix}"
    if here.implementation != "cpython":
        return f"found {here.implementation} for Python, expected CPython, which wheels are built for; {fix}"
    if not here.libc.startswith("glibc "):
        return "found another C library than glibc, which wheels are fetched for; fix: use a host with glibc"
    return here.obstacle


def _kind(here: Found) -> HostKind:
    version = ".".join(here.python.split(".")[:2])
    return HostKind(version, here.abi, here.machine, here.libc.removeprefix("glibc "))


def _refuse(reasons: Mapping[str, str]) -> None:
    raise_together([HostError(host, reason) for host, reason in reasons.items()])


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
