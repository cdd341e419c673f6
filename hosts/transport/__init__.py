"""Transports between hosts' registered buffers over the compute network."""

from __future__ import annotations

from hosts.config import TransportConfig
from hosts.transport.base import (
    Bytes,
    Connection,
    Region,
    RegistersDeviceMemory,
    RemoteRegion,
    Strided,
    TrafficClass,
    TransferError,
    Transport,
)

__all__ = [
    "Bytes",
    "Connection",
    "Region",
    "RegistersDeviceMemory",
    "RemoteRegion",
    "Strided",
    "TrafficClass",
    "TransferError",
    "Transport",
    "open_transport",
]


async def open_transport(config: TransportConfig) -> Transport:
    """The transport that ``config.kind`` names; raises `TransferError` if it cannot be opened."""
    match config.kind:
        case "tcp":
            from hosts.transport.tcp import TcpTransport

            return await TcpTransport.open(config)
        case "verbs":
            from hosts.transport.verbs import open_verbs

            return await open_verbs(config)
        case "nixl":
            from hosts.transport.nixl import open_nixl

            return await open_nixl(config)
        case "memory":
            from hosts.transport.memory import MemoryTransport

            return MemoryTransport(config)
