"""What a run leaves on a host if nobody takes it away: its processes, and what it stored.

    python -m hosts.leftovers make RUN_ID (--mount DIRECTORY | --url URL)
    python -m hosts.leftovers remove RUN_ID [--mount DIRECTORY | --url URL]

Every process of a run carries its id in the environment and its children inherit it, so that "ours" is
answered by the process itself (proc(5), environ), not by a list that could be out of date. What a run stores
lies below one name with its id in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from hosts.config import StorageConfig
from hosts.storage import StorageError, open_storage

RUN_ID_VARIABLE = "DUALPATH_RUN_ID"
KILL_TIMEOUT_S = 5.0
_RUN_ID = re.compile(r"[A-Za-z0-9]+")


class LeftoverError(Exception):
    """Something of a run could not be removed."""


def stored_name(run_id: str) -> str:
    """Below what a run stores on a rack."""
    return f"dualpath-{run_id}"


def kill_run(run_id: str, timeout_s: float = KILL_TIMEOUT_S) -> list[int]:
    """SIGKILL every process that carries the run's id and wait for their end; their process ids.

    Raises LeftoverError at the deadline.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + timeout_s
    # One may fork while it is being looked for, or be inside execve(2), where its environment looks empty.
    looks_without_any = 0
    while looks_without_any < 2:
        found = [pid for pid in _process_ids() if _carries(pid, run_id)]
        looks_without_any = 0 if found else looks_without_any + 1
        if found and time.monotonic() > deadline:
            raise LeftoverError(
                f"processes {found} of run {run_id} did not end within {timeout_s:g} s of SIGKILL"
            )
        killed.update(pid for pid in found if _kill(pid, run_id, deadline))
    return sorted(killed)


def _kill(pid: int, run_id: str, deadline: float) -> bool:
    # A pidfd stays with the process it was opened for: checked again through it, the id cannot be another's.
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not _carries(pid, run_id):
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
        return True
    finally:
        os.close(pidfd)


def _process_ids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _carries(pid: int, run_id: str) -> bool:
    # Unreadable: another user's, so not ours. Empty: already dead and waiting to be reaped.
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{RUN_ID_VARIABLE}={run_id}".encode() in environment.split(b"\0")


def main() -> int:
    """Entry point; what was removed on stdout, a line each, and what could not be on stderr."""
    parser = argparse.ArgumentParser(prog="dualpath-leftovers", description=__doc__)
    parser.add_argument("action", choices=["make", "remove"])
    parser.add_argument("run_id", type=_run_id)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--mount", default="", help="the directory that holds the KV store")
    place.add_argument("--url", default="", help="the server that holds it")
    arguments = parser.parse_args()
    name = stored_name(arguments.run_id)
    try:
        if arguments.action == "make":
            if arguments.mount:
                Path(arguments.mount, name).mkdir(mode=0o777)
            return 0
        lines = [f"process {pid}" for pid in kill_run(arguments.run_id)]
        if arguments.url or (arguments.mount and Path(arguments.mount, name).exists()):
            lines += asyncio.run(_remove_stored(arguments.mount, arguments.url, name))
    except (LeftoverError, StorageError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _run_id(text: str) -> str:
    """As a name below the store's root, it must not lead out of there."""
    if not _RUN_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected letters and digits")
    return text


async def _remove_stored(mount: str, url: str, name: str) -> list[str]:
    storage = await open_storage(StorageConfig("posix" if mount else "http", url=url, root=mount))
    try:
        await storage.delete(name)
    finally:
        await storage.close()
    return [f"stored objects below {mount or url}/{name}"]


if __name__ == "__main__":
    sys.exit(main())
