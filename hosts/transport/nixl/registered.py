"""The regions that one agent knows: each registered with it when it is first needed there."""

from __future__ import annotations

import os
from typing import Any

from hosts.nixl_agent import NixlAgent, NixlError, rows
from hosts.transport.base import Region
from hosts.transport.nixl.memory import DeviceRegion, Memory, memory_of


class RegisteredRegions:
    """By their keys. `NixlError` where NIXL refuses."""

    def __init__(self, agent: NixlAgent) -> None:
        self._agent = agent
        self._registrations: dict[int, Any] = {}
        self._described: set[int] = set()

    def add(self, region: Region) -> None:
        """Register it, if that is to do."""
        if region.remote.key not in self._registrations:
            self._registrations[region.remote.key] = self._register(memory_of(region), region.remote.length)

    def describe(self, region: Region) -> bytes:
        """What the peer's agent has to load before it writes there; empty if it was given that already."""
        self.add(region)
        key = region.remote.key
        if key in self._described:
            return b""
        self._described.add(key)
        return self._agent.description(self._registrations[key])

    def remove(self, region: Region) -> bool:
        """The agent may use it no more. False if peers cannot be kept from mistaking for it what comes to lie
        where it was: GPU memory that they know, whose name is its place. Only the agent's end helps then."""
        key = region.remote.key
        if isinstance(region, DeviceRegion) and key in self._described:
            return False
        self._described.discard(key)
        if registration := self._registrations.pop(key, None):
            self._agent.deregister(registration)
        return True

    def _register(self, memory: Memory, nbytes: int) -> Any:
        try:
            return self._agent.register(memory.kind, rows((memory.address, nbytes, memory.device)))
        except NixlError as error:
            if memory.kind == "DRAM":
                raise
            raise NixlError(
                f"{error}: {nbytes} bytes of GPU {memory.device}; expected a UCX that reaches GPUs: with "
                f"cuda_copy in UCX_TLS, where that is set (found '{os.environ.get('UCX_TLS', '')}')"
            ) from error
