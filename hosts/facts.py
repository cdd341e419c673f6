"""What a host is: the circumstances stored beside every number measured on it."""

from __future__ import annotations

import os
import platform
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import psutil

from hosts.nvml import NvmlError, open_nvml

_NVIDIA, _DISPLAY_CONTROLLER = "0x10de", "0x03"
_HARDWARE = ("kernel", "cpu", "cpu_cores", "memory_gib", "nics")


def host_facts() -> dict[str, str]:
    """Kernel, CPU, memory, GPUs and versions of this host, for the record."""
    return {
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpu_cores": str(os.cpu_count()),
        "memory_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "nics": "; ".join(_nics()),
        **gpu_facts(),
        "python": platform.python_version(),
        "dualpath": metadata.version("dualpath-testbed"),
        "numpy": metadata.version("numpy"),
        "tcp_congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }


def fingerprint(facts: Mapping[str, str]) -> dict[str, str]:
    """Of a host's facts, the hardware and what drives it: what its ceilings depend on."""
    gpus = {"gpus": facts["gpus"]} if "gpus" in facts else {}
    return {key: facts.get(key, "unknown") for key in _HARDWARE} | gpus


def gpu_facts(pci_devices: Path = Path("/sys/bus/pci/devices")) -> dict[str, str]:
    """``gpus``: names, memory, driver; ``gpus_not_sampled``: why, where PCI has some; or nothing."""
    try:
        with open_nvml() as nvml:
            found = Counter(f"{gpu.name}, {_gib(gpu.memory_bytes)}" for gpu in nvml.gpus)
            if found:
                listed = "; ".join(f"{count} x {gpu}" for gpu, count in found.items())
                return {"gpus": f"{listed}; driver {nvml.driver}"}
            reason = "the NVIDIA driver lists none"
    except NvmlError as error:
        reason = str(error)
    there = sum(map(_is_nvidia_gpu, pci_devices.glob("*")))
    return {"gpus_not_sampled": f"{there} by NVIDIA: {reason}"} if there else {}


def _is_nvidia_gpu(device: Path) -> bool:
    """By its PCI vendor and class (Documentation/ABI/testing/sysfs-bus-pci)."""
    return _read(device / "vendor") == _NVIDIA and _read(device / "class").startswith(_DISPLAY_CONTROLLER)


def _gib(memory_bytes: int | None) -> str:
    return "memory unknown" if memory_bytes is None else f"{memory_bytes / 2**30:.1f} GiB"


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


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"
