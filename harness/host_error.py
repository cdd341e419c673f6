"""The one error of everything that happens on a host."""

from __future__ import annotations


class HostError(Exception):
    """The testbed failed on a host (unreachable, lost, deadline, command refused): exit code 3."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"host {host}: {reason}")
        self.host = host
        self.reason = reason
