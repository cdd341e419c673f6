"""What launchers say, in the same words whichever it is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from harness.host_error import HostError

_SHOWN_CHARACTERS = 80


def how_it_ended(status: int) -> str:
    """The words of `Started.wait` for an exit status, negative for a signal."""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def unknown_host(host: str, hosts: Sequence[str]) -> HostError:
    """For a name that is none of the launcher's hosts."""
    return HostError(host, f"not known, expected one of {', '.join(hosts)}")


def took_too_long(host: str, argv: Sequence[str], timeout_s: float) -> HostError:
    """For a command that was ended at its deadline."""
    return HostError(host, f"{shown(argv)} did not end within {timeout_s:g} s and was killed")


def not_put(host: str, destination: str, stderr: bytes) -> HostError:
    """For a copy that its host ended, from what it said."""
    reason = stderr.decode(errors="replace").strip()
    return cannot_put(host, destination, reason or "not all of it has arrived")


def cannot_put(host: str, destination: str, reason: str) -> HostError:
    """For a file that could not be copied to a host."""
    return HostError(host, f"cannot write {destination}: {reason}")


def shown(argv: Sequence[str]) -> str:
    """A command for a message: on one line, its beginning where it is long."""
    line = " ".join(shlex.join(argv).split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}..."
