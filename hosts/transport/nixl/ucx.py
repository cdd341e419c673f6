"""How UCX, below NIXL, is told which NIC and traffic class to use (https://openucx.readthedocs.io).

UCX takes its settings from environment variables, and NIXL one agent's from a parameter. What the user has
set in the environment stands.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from hosts.config import ClassMark, VerbsConfig
from hosts.nixl_agent import NixlAgent
from hosts.transport.verbs.port import SYSFS, PortError, find_port

_WITHOUT_RDMA = {
    "UCX_TLS": "tcp,cuda_copy",  # the latter for GPU memory, where there is a GPU
    "UCX_MODULES": "^ib",  # loaded without need, its libnl crashes the process at its exit (nixl-cu12 1.5.1)
}
_ALWAYS = {
    "UCX_LOG_LEVEL": "error",  # warnings: what was outstanding on connections that were ended on purpose
    "UCX_LOG_FILE": "stderr",
}


def open_agent(bind_address: str, mark: ClassMark) -> NixlAgent:
    """An agent on the NIC with that address, in the class that ``mark`` stands for; raises `NixlError`.

    Marks are set where there is RDMA: UCX marks no TCP packets.
    """
    rdma = _has_rdma(SYSFS)
    for name, value in (_ALWAYS if rdma else _ALWAYS | _WITHOUT_RDMA).items():
        os.environ.setdefault(name, value)
    # UCX keeps registrations in a cache, where keys outlive what they were made for. Ours last long anyway.
    settings = {"RCACHE_ENABLE": "n"}
    if rdma:
        settings |= {"IB_SL": str(mark.service_level), "IB_TRAFFIC_CLASS": str(mark.traffic_class)}
    if device := _device(bind_address, rdma):
        settings["NET_DEVICES"] = device
    return NixlAgent(
        "UCX", {"engine_config": ",".join(f"{name}={value}" for name, value in settings.items())}
    )


def _has_rdma(sysfs: Path) -> bool:
    return sysfs.is_dir() and any(sysfs.iterdir())


def _device(address: str, rdma: bool) -> str:
    """UCX's name of the NIC with that address; empty if no single one has it."""
    if rdma:
        try:
            port = find_port(address, VerbsConfig())
        except PortError:
            pass  # an address of an interface without RDMA
        else:
            return f"{port.device}:{port.number}"
    for interface, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return interface
    return ""
