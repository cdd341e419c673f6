"""The regions that one agent knows: each registered with it when it is first needed there."""

from __future__ import annotations

from typing import Any

from hosts.nixl_agent import NixlAgent, rows
from hosts.transport.base import Region


class RegisteredRegions:
    """By their keys, which are also the device numbers in their rows: no two registrations are mistaken."""

    def __init__(self, agent: NixlAgent) -> None:
        self._agent = agent
        self._registrations: dict[int, Any] = {}

    def add(self, region: Region) -> Any:
        """Register it; the registration if that was to do, or None. `NixlError` if NIXL refuses."""
        key = region.remote.key
        if key in self._registrations:
            return None
        row = rows((address(region), region.view.nbytes, key))
        self._registrations[key] = self._agent.register("DRAM", row)
        return self._registrations[key]

    def remove(self, region: Region) -> None:
        """The agent may use it no more."""
        if registration := self._registrations.pop(region.remote.key, None):
            self._agent.deregister(registration)


def address(region: Region) -> int:
    """Of the region's first byte, in this process."""
    return int(region.view.ctypes.data)
