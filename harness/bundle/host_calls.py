"""Calls of `on_host.py` on hosts, and what they answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import msgspec

from harness.host_error import HostError
from harness.inventory import Inventory
from harness.launchers import Launcher

PROGRAM = resources.files("harness.bundle").joinpath("on_host.py").read_bytes()
_PYTHON_FIX = "fix: install Python 3.11 or newer there, or name it as 'python' in the inventory"
_LOOK_TIMEOUT_S = 30.0
_INSTALL_TIMEOUT_S = 300.0
"""Also for somebody else's installation there to end, which is waited for."""
_PRUNE_TIMEOUT_S = 300.0
_COMMAND_NOT_STARTED = (126, 127)
_T = TypeVar("_T")


class Found(msgspec.Struct, frozen=True):
    """A host's Python and the state of the bundle there; of a Python too old, only what it is.

    ``obstacle``: why no bundle can be there. Hosts with the same ``store`` share a directory.
    """

    python: str
    implementation: str = ""
    abi: str = ""
    machine: str = ""
    libc: str = ""
    directory: str = ""
    environment: str = ""
    obstacle: str = ""
    store: str = ""
    complete: bool = False


class Lacking(msgspec.Struct, frozen=True):
    """The wheels, by hash, that have to be uploaded before the bundle can be installed; none: it is."""

    needed: tuple[str, ...]
    free_bytes: int


class Pruned(msgspec.Struct, frozen=True):
    """What was removed, a line each."""

    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """A bundle that is ready on a host. ``directory`` is dualpath's own there, absolute."""

    directory: str
    environment: str

    def argv(self, module: str, *arguments: str) -> list[str]:
        """The command that runs one of our modules in it.

        flock(1) becomes that module's process, which so holds the bundle's lock while it lives, however it
        ends: a bundle in use is not pruned.
        """
        hold = ["flock", "--shared", "--no-fork", f"{self.environment}/lock"]
        return [*hold, f"{self.environment}/bin/python", "-I", "-m", module, *arguments]


class HostCalls:
    """`on_host.py` on the hosts of a launcher. Every method raises HostError."""

    def __init__(self, launcher: Launcher, inventory: Inventory) -> None:
        self._launcher = launcher
        self._python = inventory.python
        self._directory = inventory.directory

    async def look(self, host: str, bundle: str) -> Found:
        """What the host is, and whether the bundle is whole there."""
        request = {"directory": self._directory, "bundle": bundle}
        return await self._call(host, "look", request, Found, _LOOK_TIMEOUT_S)

    async def install(
        self, host: str, directory: str, bundle: str, wheels: Iterable[str], module: str
    ) -> Lacking:
        """Install the bundle of those wheels, of which ``module`` must import, or say which it lacks."""
        request = {"directory": directory, "bundle": bundle, "wheels": list(wheels), "module": module}
        return await self._call(host, "install", request, Lacking, _INSTALL_TIMEOUT_S)

    async def prune(self, host: str, unused_s: float) -> Pruned:
        """Remove bundles that nobody runs from and whose last use is so long ago."""
        request = {"directory": self._directory, "unused_s": unused_s}
        return await self._call(host, "prune", request, Pruned, _PRUNE_TIMEOUT_S)

    async def _call(
        self, host: str, command: str, request: dict[str, Any], answer: type[_T], timeout_s: float
    ) -> _T:
        argv = [self._python, "-I", "-S", "-", command, msgspec.json.encode(request).decode()]
        done = await self._launcher.run(host, argv, stdin=PROGRAM, timeout_s=timeout_s)
        said = _last_line(done.stderr) or f"exit status {done.status}"
        if done.status in _COMMAND_NOT_STARTED:
            raise HostError(host, f"cannot start '{self._python}' ({said}); {_PYTHON_FIX}")
        if done.status != 0:
            raise HostError(host, said)
        try:
            # The last line: what a user's shell prints when it starts comes before.
            return msgspec.json.decode(_last_line(done.stdout), type=answer)
        except msgspec.DecodeError as error:
            raise HostError(
                host,
                f"found the answer '{_last_line(done.stdout)}' of '{self._python}', expected a Python's "
                f"({error}); {_PYTHON_FIX}",
            ) from error


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
