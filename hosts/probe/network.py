"""Network interfaces, their traffic right now, and the RDMA ports behind them."""

import array
import fcntl
import glob
import os
import socket
import struct
from typing import Dict, List, Tuple

from hosts.probe.netlink import addresses, links, route
from hosts.probe.reading import Facts, number, reason, text

_SIOCETHTOOL = 0x8946
_GET_SETTINGS, _GET_DRIVER = 0x1, 0x3
"""ETHTOOL_GSET and ETHTOOL_GDRVINFO (linux/ethtool.h): no privilege, and of this namespace."""
_UNKNOWN_MBIT_PER_S = 0xFFFFFFFF
_INVENTED_RATES = ("veth", "tun")
_NULL_GID = "0000:0000:0000:0000:0000:0000:0000:0000"
_RDMA = "/sys/class/infiniband"
_MAX_GIDS = 32

Bytes = Dict[str, Tuple[int, int]]
"""Received and sent so far, by interface or RDMA port."""


def interfaces(before: Bytes, after: Bytes, seconds: float) -> Facts:
    """All of them, with what they carried between two counts, and which one the management is on."""
    by_index: Dict[int, List[Facts]] = {}
    for index, address, prefix in addresses():
        by_index.setdefault(index, []).append({"address": address, "prefix": prefix})
    found = []
    for link in links():
        driver, bus = _driver(link["name"])
        received, sent = _growth(before, after, link["name"])
        found.append(
            {
                "name": link["name"],
                "state": link["state"],
                "up": link["up"],
                "mtu": link["mtu"],
                "gbit_per_s": 0.0 if link["kind"] in _INVENTED_RATES else _gbit_per_s(link["name"]),
                "driver": driver or link["kind"],
                "virtual": bool(link["kind"]) or not bus,
                "numa": number(f"/sys/bus/pci/devices/{bus}/numa_node") if bus else -1,
                "addresses": by_index.get(link["index"], []),
                "rx_bytes_per_s": received / seconds,
                "tx_bytes_per_s": sent / seconds,
            }
        )
    return {"interfaces": found, "management": _management()}


def rdma_ports(before: Bytes, after: Bytes, seconds: float) -> Facts:
    """Every port of every RDMA device; of long GID tables the first entries that are not empty."""
    found = []
    for port in sorted(glob.glob(_RDMA + "/*/ports/*")):
        device, _, ordinal = port.split("/")[-3:]
        received, sent = _growth(before, after, f"{device}/{ordinal}")
        found.append(
            {
                "device": device,
                "port": int(ordinal),
                "state": text(port + "/state").split(": ")[-1],
                "gbit_per_s": _leading_number(text(port + "/rate")),
                "link_layer": text(port + "/link_layer"),
                "interface": text(port + "/gid_attrs/ndevs/0") or _ipoib(device, int(ordinal)),
                "numa": number(f"{_RDMA}/{device}/device/numa_node"),
                "gids": _gids(port),
                "rx_bytes_per_s": received / seconds,
                "tx_bytes_per_s": sent / seconds,
            }
        )
    return {"ports": found}


def traffic() -> Bytes:
    """What every interface and RDMA port (``DEVICE/PORT``) has carried so far."""
    counted: Bytes = {}
    try:
        for link in links():
            counted[link["name"]] = (link["rx_bytes"], link["tx_bytes"])
    except OSError:
        pass  # `interfaces` says so
    for port in glob.glob(_RDMA + "/*/ports/*"):
        received, sent = (
            number(f"{port}/counters/{name}", 0) * 4 for name in ("port_rcv_data", "port_xmit_data")
        )
        counted["/".join(port.split("/")[-3::2])] = (received, sent)
    return counted


def _growth(before: Bytes, after: Bytes, name: str) -> Tuple[int, int]:
    first, last = before.get(name), after.get(name)
    return (last[0] - first[0], last[1] - first[1]) if first and last else (0, 0)


def _management() -> Facts:
    """Where sshd was reached, or else the way to where srun runs, or to everywhere."""
    connection = os.environ.get("SSH_CONNECTION", "").split()
    try:
        if len(connection) == 4:
            address = connection[2].split("%")[0]
        else:
            address = route(os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "192.0.2.1"))["source"]
        owner = {index: name for index, name in socket.if_nameindex()}
        devices = [owner.get(index, "") for index, own, _ in addresses() if own == address]
        return {"address": address, "device": devices[0] if devices else ""}
    except OSError as error:
        return {"error": reason(error)}


def _ethtool(interface: str, command: int, size: int) -> bytes:
    """The answer to one command; empty where the driver has none."""
    buffer = array.array("B", struct.pack("=I", command).ljust(size, b"\0"))
    request = struct.pack("16sP16x", interface.encode(), buffer.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCETHTOOL, request)
    except OSError:
        return b""
    return buffer.tobytes()


def _driver(interface: str) -> Tuple[str, str]:
    """Its name, and the PCI address of its device (both empty for what has none)."""
    answer = _ethtool(interface, _GET_DRIVER, 196)
    name, bus = (answer[at : at + 32].split(b"\0")[0].decode("ascii", "replace") for at in (4, 100))
    return name, bus if os.path.exists("/sys/bus/pci/devices/" + bus) and bus else ""


def _gbit_per_s(interface: str) -> float:
    """0 if the driver does not know."""
    answer = _ethtool(interface, _GET_SETTINGS, 44)
    if not answer:
        return 0.0
    low, high = struct.unpack_from("=H", answer, 12)[0], struct.unpack_from("=H", answer, 28)[0]
    mbit_per_s = high << 16 | low
    return 0.0 if mbit_per_s in (0xFFFF, _UNKNOWN_MBIT_PER_S) else mbit_per_s / 1e3


def _gids(port: str) -> List[Facts]:
    found: List[Facts] = []
    for index in sorted(int(os.path.basename(path)) for path in glob.glob(port + "/gids/*")):
        gid = text(f"{port}/gids/{index}")
        if gid and gid != _NULL_GID:
            found.append({"index": index, "gid": gid, "type": text(f"{port}/gid_attrs/types/{index}")})
        if len(found) == _MAX_GIDS:
            break
    return found


def _ipoib(device: str, port: int) -> str:
    """The interface of an InfiniBand port, whose GID table does not name it."""
    for path in sorted(glob.glob(f"{_RDMA}/{device}/device/net/*")):
        if number(path + "/dev_port", 0) + 1 == port:
            return os.path.basename(path)
    return ""


def _leading_number(words: str) -> float:
    try:
        return float(words.split()[0])
    except (IndexError, ValueError):
        return 0.0
