"""What a host is: the circumstances stored beside every number measured on it."""

from __future__ import annotations

import os
import platform
import socket
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
        "python": platform.python_version(),
        "dualpath": metadata.version("dualpath-testbed"),
        "numpy": metadata.version("numpy"),
        "tcp_congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }


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
