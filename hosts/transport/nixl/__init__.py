"""NIXL as a transport: agents over UCX, imported when it is asked for."""

from __future__ import annotations

from hosts.config import TransportConfig
from hosts.nixl_agent import NixlError, require_nixl
from hosts.transport.base import TransferError, Transport

__all__ = ["open_nixl"]


async def open_nixl(config: TransportConfig) -> Transport:
    """The transport; raises `TransferError` if this host has no usable NIXL or network there."""
    try:
        require_nixl()
    except NixlError as error:
        raise TransferError(config.bind_address, "open", 0, 0, str(error)) from error
    from hosts.transport.nixl.transport import NixlTransport

    return await NixlTransport.open(config)
