"""The one error of everything that happens on a host."""

from __future__ import annotations


class HostError(Exception):
    """The testbed failed on a host (unreachable, lost, deadline, command refused): exit code 3.

    ``told``: the host's agent itself has said the reason, so its log says no more than that.
    """

    def __init__(self, host: str, reason: str, *, told: bool = False) -> None:
        super().__init__(f"host {host}: {reason}")
        self.host = host
        self.reason = reason
        self.told = told
