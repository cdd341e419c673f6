"""GPUs, and whether NICs can reach their memory."""

import glob
import os
import re
import sys
from typing import List

from hosts.probe.reading import Facts, number, output, text

_QUERY = "index,uuid,pci.bus_id,name,driver_version"
_DRIVER = "/proc/driver/nvidia"
_PEER_MODULES = ("nvidia_peermem", "nv_peer_mem")
_TORCH = "from importlib import metadata; print(metadata.version('torch'))"  # importing it takes seconds
_DMA_BUF_KERNEL = (5, 12)


def gpus() -> Facts:
    """By nvidia-smi, or by what the driver shows without it; and the ways to GPUDirect RDMA."""
    listed = output(["nvidia-smi", "--query-gpu=" + _QUERY, "--format=csv,noheader"])
    found = _by_tool(listed) if listed else _by_driver()
    peer_modules = [name for name in _PEER_MODULES if os.path.isdir("/sys/module/" + name)]
    kernel = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    open_driver = "Open Kernel Module" in text(_DRIVER + "/version")
    return {
        "gpus": found,
        "source": "nvidia-smi" if listed else _DRIVER,
        "peer_module": peer_modules[0] if peer_modules else "",
        "torch": output([sys.executable, "-I", "-c", _TORCH]),
        "dma_buf": kernel >= _DMA_BUF_KERNEL and open_driver,
        "how": "kernel {}.{}, {} kernel module of NVIDIA, module nvidia_peermem {}".format(
            *kernel, "open" if open_driver else "no open", "loaded" if peer_modules else "not loaded"
        ),
    }


def _by_tool(listed: str) -> List[Facts]:
    found = []
    for line in listed.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5:
            index, uuid, bus, name, driver = fields
            found.append(_gpu(int(index), uuid, bus, name, driver))
    return found


def _by_driver() -> List[Facts]:
    found = []
    version = re.search(r"\b\d+\.\d+(\.\d+)?\b", text(_DRIVER + "/version"))
    for index, path in enumerate(sorted(glob.glob(_DRIVER + "/gpus/*"))):
        lines = (line.partition(":") for line in text(path + "/information").splitlines())
        known = {name.strip(): value.strip() for name, _, value in lines}
        uuid, name = known.get("GPU UUID", ""), known.get("Model", "")
        found.append(_gpu(index, uuid, os.path.basename(path), name, version.group() if version else ""))
    return found


def _gpu(index: int, uuid: str, bus: str, name: str, driver: str) -> Facts:
    pci = bus.lower()[-12:]  # nvidia-smi writes the domain with eight digits, the kernel with four
    numa = number(f"/sys/bus/pci/devices/{pci}/numa_node")
    return {"index": index, "uuid": uuid, "pci": pci, "name": name, "driver": driver, "numa": numa}
