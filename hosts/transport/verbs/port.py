"""Which port of which RDMA device belongs to a NIC: found by the NIC's address, or named.

From /sys/class/infiniband (Documentation/ABI/stable/sysfs-class-infiniband). On RoCE a port's GID table holds
the addresses of its network interface (IPv4 ones mapped into IPv6, RFC 4291 2.5.5.2); on InfiniBand an IPoIB
interface names its device.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from hosts.config import VerbsConfig

SYSFS = Path("/sys/class/infiniband")
_NET = Path("/sys/class/net")
_NULL_GID = "0000:0000:0000:0000:0000:0000:0000:0000"


class PortError(Exception):
    """No usable port; says what was looked for, what there is, and what to do."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port and the entry of its GID table that packets carry as their source."""

    device: str
    number: int
    gid_index: int
    gid: str
    lid: int
    link_layer: str

    def __str__(self) -> str:
        return f"{self.device} port {self.number}"


def find_port(address: str, config: VerbsConfig, sysfs: Path = SYSFS) -> Port:
    """The port that ``config`` names or ``address`` is on. Raises `PortError` if there is none that is
    active."""
    port = _named(config, sysfs) if config.device else _with_address(address, config, sysfs)
    state = port_state(port, sysfs)
    if not state.endswith("ACTIVE"):
        raise PortError(
            f"{port}: found state {state or 'unknown'}, expected ACTIVE; check cable and switch, or "
            "'ip link set ... up' for its interface"
        )
    return port


def port_state(port: Port, sysfs: Path = SYSFS) -> str:
    """As the kernel says it now, such as ``4: ACTIVE``; empty if the device is gone."""
    return _read(sysfs / port.device / "ports" / str(port.number) / "state")


def _named(config: VerbsConfig, sysfs: Path) -> Port:
    ports = sysfs / config.device / "ports"
    if not (ports / str(config.port)).is_dir():
        raise PortError(f"{config.device} port {config.port}: not there; found {_listed(sysfs)}")
    port = ports / str(config.port)
    if config.gid_index >= 0:
        if gid := _gid(port, config.gid_index):
            return _port(port, config.gid_index, gid)
        raise PortError(
            f"{config.device} port {config.port}: GID index {config.gid_index} is empty; found "
            f"{_shown(dict(_gids(port)))}"
        )
    entries = dict(_gids(port))
    if not entries:
        raise PortError(
            f"{config.device} port {config.port}: its GID table is empty; give its interface an address"
        )
    index = _best(port, entries)
    return _port(port, index, entries[index])


def _with_address(address: str, config: VerbsConfig, sysfs: Path) -> Port:
    if not sysfs.is_dir() or not any(sysfs.iterdir()):
        raise PortError(
            "this host has no RDMA device (/sys/class/infiniband is empty); load its driver, or use "
            "transport 'tcp'"
        )
    wanted = _as_gid(address)
    # Tables have up to a thousand entries, a file each: those of the interface with the address come first.
    interfaces = _interfaces(address)
    ports = sorted(sysfs.glob("*/ports/*"))
    for port in sorted(ports, key=lambda port: _read(port / "gid_attrs" / "ndevs" / "0") not in interfaces):
        for first, gid in _gids(port):
            if gid == wanted:  # RoCE v1 and v2 are neighbours; the rest of a long table need not be read
                matching = {i: wanted for i in range(first, first + 2) if _gid(port, i) == wanted}
                return _port(port, _best(port, matching), gid)
    if found := _ipoib(address, sysfs):
        entries = dict(_gids(found))
        return _port(found, 0, entries.get(0, _NULL_GID))
    raise PortError(
        f"no RDMA device has the address {address} (GID {wanted}); found {_listed(sysfs)}; name the NIC's "
        "device, or give its interface that address"
    )


def _best(port: Path, entries: dict[int, str]) -> int:
    """Of equal GIDs, RoCE v2 before v1: v2 is routed as UDP and carries a DSCP."""
    types = {index: _read(port / "gid_attrs" / "types" / str(index)) for index in entries}
    return min(entries, key=lambda index: ("v2" not in types[index], _is_link_local(entries[index]), index))


def _is_link_local(gid: str) -> bool:
    return gid.startswith("fe80")


def _gids(port: Path) -> Iterator[tuple[int, str]]:
    for index in sorted(int(entry.name) for entry in (port / "gids").iterdir()):
        if gid := _gid(port, index):
            yield index, gid


def _gid(port: Path, index: int) -> str:
    """An entry of the GID table; empty if it is."""
    gid = _read(port / "gids" / str(index))
    return "" if gid == _NULL_GID else gid


def _ipoib(address: str, sysfs: Path) -> Path | None:
    for interface in _interfaces(address):
        for device in sorted((_NET / interface / "device" / "infiniband").glob("*")):
            number = int(_read(_NET / interface / "dev_port") or 0) + 1
            return sysfs / device.name / "ports" / str(number)
    return None


def _interfaces(address: str) -> list[str]:
    """Those that have it."""
    known = psutil.net_if_addrs().items()
    return [name for name, entries in known if any(entry.address == address for entry in entries)]


def _port(port: Path, index: int, gid: str) -> Port:
    return Port(
        device=port.parent.parent.name,
        number=int(port.name),
        gid_index=index,
        gid=gid,
        lid=int(_read(port / "lid") or "0", 16),
        link_layer=_read(port / "link_layer"),
    )


def _as_gid(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        parsed = ipaddress.IPv6Address(f"::ffff:{parsed}")
    return parsed.exploded


def _listed(sysfs: Path) -> str:
    ports = [
        f"{port.parent.parent.name} port {port.name} ({_shown(dict(_gids(port)))})"
        for port in sorted(sysfs.glob("*/ports/*"))
    ]
    return "; ".join(ports) or "no RDMA device"


def _shown(entries: dict[int, str]) -> str:
    return ", ".join(f"GID {index}: {gid}" for index, gid in entries.items()) or "no GIDs"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
