"""The regions that one agent knows: each registered with it when it is first needed there."""

from __future__ import annotations

from typing import Any

from hosts.nixl_agent import NixlAgent, rows
from hosts.transport.base import Region


class RegisteredRegions:
    """By their keys, which are also the device numbers in their rows: no two registrations are mistaken.

    `NixlError` where NIXL refuses.
    """

    def __init__(self, agent: NixlAgent) -> None:
        self._agent = agent
        self._registrations: dict[int, Any] = {}
        self._described: set[int] = set()

    def add(self, region: Region) -> None:
        """Register it, if that is to do."""
        key = region.remote.key
        if key not in self._registrations:
            row = rows((address(region), region.view.nbytes, key))
            self._registrations[key] = self._agent.register("DRAM", row)

    def describe(self, region: Region) -> bytes:
        """What the peer's agent has to load before it writes there; empty if it was given that already."""
        self.add(region)
        key = region.remote.key
        if key in self._described:
            return b""
        self._described.add(key)
        return self._agent.description(self._registrations[key])

    def remove(self, region: Region) -> None:
        """The agent may use it no more."""
        key = region.remote.key
        self._described.discard(key)
        if registration := self._registrations.pop(key, None):
            self._agent.deregister(registration)


def address(region: Region) -> int:
    """Of the region's first byte, in this process."""
    return int(region.view.ctypes.data)
