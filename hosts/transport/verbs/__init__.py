"""RDMA verbs by way of pyverbs, which has to be importable before this package's modules are."""

from __future__ import annotations

from hosts.config import TransportConfig
from hosts.transport.base import TransferError, Transport
from hosts.transport.verbs.library import PyverbsError, require_pyverbs

__all__ = ["open_verbs"]


async def open_verbs(config: TransportConfig) -> Transport:
    """The transport; raises `TransferError` if this host has no usable pyverbs, device or port."""
    try:
        require_pyverbs()
    except PyverbsError as error:
        raise TransferError(config.bind_address, "open", 0, 0, str(error)) from error
    from hosts.transport.verbs.transport import VerbsTransport

    return await VerbsTransport.open(config)
