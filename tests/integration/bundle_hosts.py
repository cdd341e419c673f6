"""Hosts that are homes on this machine, behind those methods of a launcher that bundles need."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost, SshLauncher
from harness.launchers import Completed


class LocalHosts:
    """`Launcher.run` and `put` for hosts that differ in their environment variables, first of all in HOME.

    ``puts`` lists uploads; those whose number, from 1, is in ``broken`` break off half-way, those in
    ``damaged`` arrive with other bytes.
    """

    kind = "local"

    def __init__(self, homes: Path, names: Sequence[str]) -> None:
        self.hosts = tuple(names)
        self.homes = {name: homes / name for name in names}
        for home in self.homes.values():
            home.mkdir(parents=True, exist_ok=True)
        self.variables = {
            n: {"HOME": str(home), "PATH": os.environ["PATH"]} for n, home in self.homes.items()
        }
        self.runs: Counter[str] = Counter()
        self.puts: list[tuple[str, str]] = []
        self.broken: set[int] = set()
        self.damaged: set[int] = set()
        self.greeting = b""

    def give_python(self, host: str, python: str) -> None:
        """Let that be what the host calls python3."""
        folder = self.homes[host] / "bin"
        folder.mkdir()
        (folder / "python3").symlink_to(python)
        self.variables[host]["PATH"] = f"{folder}:{os.environ['PATH']}"

    async def run(
        self, host: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Completed:
        self.runs[host] += 1
        pipe = asyncio.subprocess.PIPE
        # env(1) says that there is no such command in the way of a shell: exit status 127.
        process = await asyncio.create_subprocess_exec(
            *("/usr/bin/env", *argv), stdin=pipe, stdout=pipe, stderr=pipe, env=self.variables[host]
        )
        try:
            async with asyncio.timeout(timeout_s):
                stdout, stderr = await process.communicate(stdin)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Completed(await process.wait(), self.greeting + stdout, stderr)

    async def put(self, host: str, source: Path, destination: str, *, timeout_s: float = 120.0) -> None:
        self.puts.append((host, Path(destination).name))
        number = len(self.puts)
        await asyncio.to_thread(self._copy, host, source, Path(destination), number)

    def _copy(self, host: str, source: Path, destination: Path, number: int) -> None:
        content = source.read_bytes()
        if number in self.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        draft = destination.with_name(f"{destination.name}.{secrets.token_hex(4)}.part")
        if number in self.broken:
            draft.write_bytes(content[: len(content) // 2])
            raise HostError(host, "connection lost")
        draft.write_bytes(content)
        draft.replace(destination)


def pythons(minors: Sequence[int]) -> list[str]:
    """Those of Python 3.``minors`` that this machine has and that start, one of each version."""
    folders = [*map(Path, os.environ["PATH"].split(":")), *Path.home().glob(".pyenv/versions/*/bin")]
    found: dict[int, str] = {}
    for minor in minors:
        candidates = (folder / f"python3.{minor}" for folder in folders)
        if python := next(filter(None, map(_executable, candidates)), None):
            found[minor] = python
    return list(found.values())


def _executable(python: Path) -> str:
    """What that command runs, or nothing if it does not start."""
    if not python.exists():
        return ""
    argv = [python, "-c", "import sys; print(sys.executable)"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout.strip()


def rack(
    hosts: Sequence[str], directory: str = "~/.cache/dualpath", python: str = sys.executable
) -> Inventory:
    """An inventory of such hosts, as far as bundles read it."""
    return Inventory(
        hosts=tuple(InventoryHost(name=host, role="prefill") for host in hosts),
        launcher=SshLauncher(),
        directory=directory,
        python=python,
    )
