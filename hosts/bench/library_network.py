"""How a collective library is kept to one NIC and one traffic class.

Gloo and NCCL read their settings from the environment when a group is made. NCCL gives its RDMA a service
level and a traffic class; for sockets neither has a setting, so these are marked once they are connected.
https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

import psutil

from hosts.bench.phases import CollectiveLibrary
from hosts.config import ClassMark, TrafficClass, TransportConfig
from hosts.transport.entrance import mark_packets
from hosts.transport.verbs.port import find_port

MODEL_COMMUNICATION: TrafficClass = "high"
"""Of all collectives (paper section 5)."""
_BETWEEN_HOSTS = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_MNNVL_ENABLE": "0"}
"""Over the NICs, even between GPUs of one machine or of one NVLink domain."""


class LibraryNetworkError(Exception):
    """A library cannot be kept to the NIC or the class: which, where, and what to do."""


def uses_sockets(library: CollectiveLibrary, transport: TransportConfig) -> bool:
    """Whether a library's bytes go by sockets: NCCL's do where those of KV do."""
    return library == "gloo" or transport.kind == "tcp"


def network_variables(library: CollectiveLibrary, transport: TransportConfig) -> dict[str, str]:
    """The environment for a group on the transport's NIC, in the class of model communication.

    Raises `LibraryNetworkError`, or `PortError` where the NIC has no RDMA port.
    """
    interface = _interface_of(transport.bind_address)
    if library == "gloo":
        return {"GLOO_SOCKET_IFNAME": interface}
    common = _BETWEEN_HOSTS | {"NCCL_SOCKET_IFNAME": f"={interface}"}
    if uses_sockets(library, transport):
        return common | {"NCCL_NET": "Socket"}
    port, mark = find_port(transport.bind_address, transport.verbs), transport.classes[MODEL_COMMUNICATION]
    rdma = {
        "NCCL_NET": "IB",
        "NCCL_IB_HCA": f"={port.device}:{port.number}",
        "NCCL_IB_SL": str(mark.service_level),
        "NCCL_IB_TC": str(mark.traffic_class),
    }
    if port.link_layer == "Ethernet":
        rdma["NCCL_IB_GID_INDEX"] = str(port.gid_index)
    return common | rdma


def mark_sockets(address: str, mark: ClassMark) -> int:
    """Mark what this process sends over every TCP connection that it has from ``address``; their number.

    Raises `LibraryNetworkError` if there is none: what is not found would go unmarked.
    """
    marked = 0
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # closed meanwhile: it sends nothing any more
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                if sock.type == socket.SOCK_STREAM and _is_connected_from(address, sock):
                    mark_packets(sock, mark)
                    marked += 1
    if not marked:
        raise LibraryNetworkError(
            f"found no connection of this process from {address}, expected the collective library's; look at "
            "which interface it uses (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"
        )
    return marked


def _is_connected_from(address: str, sock: socket.socket) -> bool:
    return (
        sock.family in (socket.AF_INET, socket.AF_INET6)
        and sock.getsockname()[0] == address
        and bool(sock.getpeername())
    )


def _interface_of(address: str) -> str:
    for interface, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return interface
    raise LibraryNetworkError(
        f"found no interface with address {address}, expected this host's compute NIC; fix: correct "
        "compute_nics in the inventory"
    )
