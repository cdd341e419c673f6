"""What a host is: the circumstances stored beside every number measured on it."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import psutil


def host_facts() -> dict[str, str]:
    """Kernel, CPU, memory and versions of this host, for the record."""
    return {
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpu_cores": str(os.cpu_count()),
        "memory_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "nics": "; ".join(_nics()),
        "python": platform.python_version(),
        "dualpath": metadata.version("dualpath-testbed"),
        "numpy": metadata.version("numpy"),
        "tcp_congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }


def fingerprint(facts: Mapping[str, str]) -> dict[str, str]:
    """Of a host's facts, the hardware and what drives it: what its ceilings depend on."""
    return {key: facts.get(key, "unknown") for key in ("kernel", "cpu", "cpu_cores", "memory_gib", "nics")}


def _nics() -> Iterator[str]:
    """Interfaces with their link rate (0: unknown to the driver) and MTU."""
    for name, nic in sorted(psutil.net_if_stats().items()):
        if name != "lo":
            yield f"{name} {nic.speed} Mbit/s, MTU {nic.mtu}"


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"
