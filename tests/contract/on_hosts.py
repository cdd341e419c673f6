"""What can be seen of hosts from here: they are namespaces of this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SOON_S = 10.0
"""For what happens at once, on a machine whose cores are shared."""


async def until(condition: Callable[[], object], what: str, within_s: float = SOON_S) -> None:
    """Wait until something is so on a host, of which nothing tells us."""
    end_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_at, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.02)


async def until_gone(*pids: int, within_s: float = SOON_S) -> None:
    await until(lambda: not any(runs(pid) for pid in pids), f"processes {pids} have ended", within_s)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def pids_in(file: Path, count: int = 1) -> list[int]:
    """Process ids that a command wrote to a file, a line each."""

    def written() -> list[str]:
        return file.read_text().split("\n")[:-1] if file.exists() else []

    await until(lambda: len(written()) >= count, f"{count} process ids in {file}")
    return [int(line) for line in written()]


async def text_in(log: Path, text: str) -> None:
    await until(lambda: log.exists() and text in log.read_text(), f"'{text}' in {log}")
