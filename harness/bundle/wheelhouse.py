"""Wheels of third parties for a kind of host, kept on the control node, which alone has an index to ask.

    $XDG_CACHE_HOME/dualpath/wheelhouse/LOCK-ABI-LIBC-MACHINE/*.whl

What is there counts by its hash, whoever put it there: without an index, a person can.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.bundle.lock import locked

_PIP_TIMEOUT_S = 900.0
_OLDEST_GLIBC = 17
"""2.17, manylinux2014: no locked package has wheels for older ones."""


class WheelhouseError(Exception):
    """There are no such wheels; says why and what to do."""


@dataclass(frozen=True, slots=True, order=True)
class HostKind:
    """What a host's wheels depend on: ``version`` as "3.11", ``abi`` as "cp311", ``glibc`` as "2.36"."""

    version: str
    abi: str
    machine: str
    glibc: str

    def __str__(self) -> str:
        return f"Python {self.version} ({self.abi}) on {self.machine} with glibc {self.glibc}"


async def wheels_for(kind: HostKind, lock: str) -> Mapping[str, Path]:
    """By hash, a file for every locked requirement on such hosts, fetched if need be.

    Raises WheelhouseError.
    """
    try:
        folder = _folder(kind, lock)
        wheels, lacking = await asyncio.to_thread(_kept, folder, lock)
        if lacking:
            with TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
                status, said = await _pip(_download(kind, lock, scratch), scratch)
                if status != 0:
                    raise WheelhouseError(_not_fetched(kind, lacking, folder, said))
                _move_wheels(scratch, folder)
            wheels, lacking = await asyncio.to_thread(_kept, folder, lock)
    except OSError as error:
        raise WheelhouseError(
            f"cannot keep wheels on this machine in {wheelhouse()}: {error}; fix: make it writable, or "
            "set XDG_CACHE_HOME"
        ) from error
    assert not lacking, "pip has fetched every file of the lock"
    return wheels


def prune_wheelhouse(unused_s: float) -> list[str]:
    """Remove wheels of kinds of hosts that were not deployed to for so long; a line for each."""
    removed = []
    for folder in sorted(wheelhouse().glob("*-*")):
        idle_s = time.time() - folder.stat().st_mtime
        if idle_s >= unused_s:
            shutil.rmtree(folder)
            removed.append(f"{folder} (unused for {idle_s / 86400:.0f} days)")
    return removed


def wheelhouse() -> Path:
    """Its folder, which is there once wheels are."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "dualpath", "wheelhouse")


def _folder(kind: HostKind, lock: str) -> Path:
    edition = hashlib.sha256(lock.encode()).hexdigest()[:16]
    folder = wheelhouse() / f"{edition}-{kind.abi}-glibc{kind.glibc}-{kind.machine}"
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    return folder


def _kept(folder: Path, lock: str) -> tuple[dict[str, Path], list[str]]:
    """By hash, what the lock wants and the folder has; and the requirements that it lacks."""
    there = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(folder.glob("*.whl"))}
    wheels: dict[str, Path] = {}
    lacking = []
    for requirement, hashes in locked(lock).items():
        fitting = [sha256 for sha256 in there if sha256 in hashes]
        if fitting:
            wheels[fitting[0]] = there[fitting[0]]
        else:
            lacking.append(requirement)
    return wheels, lacking


def _download(kind: HostKind, lock: str, scratch: str) -> list[str]:
    """pip's arguments; platforms from the host's glibc down, as what is built for an older one runs there."""
    requirements = Path(scratch, "hosts.lock")
    requirements.write_text(lock, encoding="utf-8")
    newest = int(kind.glibc.removeprefix("2."))
    platforms = [f"manylinux_2_{minor}_{kind.machine}" for minor in range(newest, _OLDEST_GLIBC - 1, -1)]
    platforms.append(f"manylinux2014_{kind.machine}")
    return [
        *("download", "--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2"),
        *("--require-hashes", "--no-deps", "--only-binary", ":all:"),
        *("--implementation", "cp", "--python-version", kind.version, "--abi", kind.abi),
        *(word for platform in platforms for word in ("--platform", platform)),
        *("--requirement", str(requirements), "--dest", scratch),
    ]


def _move_wheels(source: str, folder: Path) -> None:
    for wheel in Path(source).glob("*.whl"):
        wheel.replace(folder / wheel.name)


def _not_fetched(kind: HostKind, lacking: Sequence[str], folder: Path, said: str) -> str:
    lines = ["pip failed", *said.splitlines()]
    reason = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
    # pip says of a package that it could not ask for that there is none.
    if unreachable := re.search(r"\[Errno [^'\")]*", said):
        reason = f"{unreachable.group()}; {reason}"
    return (
        f"cannot fetch {', '.join(lacking)} for {kind} ({reason}); fix: let this machine reach a package "
        f"index, or put such wheels into {folder} by hand, or use a Python there that they are built for"
    )


async def _pip(arguments: Sequence[str], scratch: str) -> tuple[int, str]:
    """pip's exit status and output. Its temporary files go with ``scratch``, however it ends."""
    if importlib.util.find_spec("pip") is None:
        return 1, f"no pip in {sys.executable}, which '{sys.executable} -m ensurepip' installs"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pip", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "TMPDIR": scratch},
    )
    try:
        async with asyncio.timeout(_PIP_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        return 1, f"not done after {_PIP_TIMEOUT_S:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return await process.wait(), output.decode(errors="replace")
