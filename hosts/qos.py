"""Traffic classes as this host's fabric has them, and as the paper sets them (section 5, appendix A.1).

Read-only: files of sysfs, configfs and OpenSM, and the ``show`` commands of smpquery(8), dcb(8), mlnx_qos
and tc(8). Nothing here changes a NIC or a switch. The parsers are pure; settings keep the names of the tool
that shows them, the InfiniBand ones OpenSM's, so that found and wanted can be laid side by side.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

Settings = dict[str, str]
Runner = Callable[[Sequence[str]], str]
"""Runs a command and gives its output; raises `UnreadableError`."""

_COMMAND_TIMEOUT_S = 5.0
_MLNX_CLASS = re.compile(
    r"^tc: (\d) ratelimit: [^,]+, tsa: (\w+)(?:, bw: (\d+)%)?\s*\n((?:\s+priority:.*\n?)*)", re.MULTILINE
)

PAPER_INFINIBAND: Settings = {
    "qos_max_vls": "4",
    "qos_high_limit": "240",
    "qos_vlarb_high": "0:192,1:192,2:0,3:192",
    "qos_vlarb_low": "0:192,1:192,2:64,3:192",
}
PAPER_ROCE: Settings = {
    "dscp-prio": "DSCP 46 (model communication) to a priority of its own; DSCP 0 (KV) to another",
    "prio-tc": "each priority to a traffic class of its own, four in use",
    "prio-pfc": "on for these four: lossless",
    "tc-bw": "about 99 % for the class of model communication, 1 % for the one of KV",
}


class UnreadableError(Exception):
    """A setting cannot be read here: why."""


class Source(msgspec.Struct, frozen=True):
    """One file or command: what it showed, or why nothing."""

    name: str
    found: Settings = {}
    obstacle: str = ""


class PortQos(msgspec.Struct, frozen=True):
    """A port of an RDMA device, or a plain network interface (then without ``device``)."""

    device: str
    port: int
    link_layer: str
    interface: str
    sources: list[Source]
    paper: Settings


def find_qos(root: Path = Path("/"), run: Runner | None = None) -> list[PortQos]:
    """Every RDMA port, then every other physical interface, with all that can be read of them."""
    ask = run or _run
    ports = sorted((root / "sys/class/infiniband").glob("*/ports/*"))
    found = [_rdma_port(root, path, ask) for path in ports]
    known = {port.interface for port in found}
    for path in sorted((root / "sys/class/net").glob("*/device")):
        if path.parent.name not in known:
            sources = _interface_sources(path.parent.name, ask)
            found.append(PortQos("", 0, "Ethernet", path.parent.name, sources, PAPER_ROCE))
    return found


def _rdma_port(root: Path, path: Path, run: Runner) -> PortQos:
    device, port = path.parts[-3], path.name
    link_layer = _text(path / "link_layer") or "unknown"
    if link_layer == "InfiniBand":
        lid = str(int(_text(path / "lid") or "0", 0))
        query = ["smpquery", "-C", device, "-P", port]
        sources = [
            _asked([*query, "portinfo", lid, port], parse_portinfo, run),
            _asked([*query, "vlarb", lid, port], parse_vlarb, run),
            _read(root / "etc/opensm/opensm.conf", parse_opensm),
        ]
        return PortQos(device, int(port), link_layer, "", sources, PAPER_INFINIBAND)
    interface = _text(path / "gid_attrs/ndevs/0")
    tos = root / f"sys/kernel/config/rdma_cm/{device}/ports/{port}/default_roce_tos"
    sources = [
        _read(path.parents[1] / f"tc/{port}/traffic_class", lambda text: {"traffic_class": text.strip()}),
        _read(tos, lambda text: {"default_roce_tos": text.strip()}),
        *(_interface_sources(interface, run) if interface else []),
    ]
    return PortQos(device, int(port), link_layer, interface, sources, PAPER_ROCE)


def _interface_sources(interface: str, run: Runner) -> list[Source]:
    commands: list[tuple[list[str], Callable[[str], Settings]]] = [
        (["dcb", "-N", "app", "show", "dev", interface], parse_dcb),
        (["dcb", "ets", "show", "dev", interface], parse_dcb),
        (["dcb", "pfc", "show", "dev", interface], parse_dcb),
        (["mlnx_qos", "-i", interface], parse_mlnx_qos),
        (["tc", "qdisc", "show", "dev", interface], parse_qdiscs),
    ]
    return [_asked(command, parse, run) for command, parse in commands]


# --- parsers ---------------------------------------------------------------------------------


def parse_vlarb(text: str) -> Settings:
    """``smpquery vlarb``: both tables as OpenSM writes them, ``VL:weight``, without the unused entries at
    the end."""
    found = {}
    for priority, entries in re.findall(r"# (Low|High) priority.*?\n((?:(?:VL|WEIGHT)\s*:.*\n?)+)", text):
        lanes, weights = (
            [int(number, 16) for line in re.findall(rf"^{row}\s*:(.*)$", entries, re.MULTILINE)
             for number in re.findall(r"0x[0-9a-fA-F]+", line)]
            for row in ("VL", "WEIGHT")
        )  # fmt: skip
        pairs = list(zip(lanes, weights, strict=True))
        while pairs and pairs[-1] == (0, 0):
            pairs.pop()
        found[f"qos_vlarb_{priority.lower()}"] = ",".join(f"{lane}:{weight}" for lane, weight in pairs)
    return found


def parse_portinfo(text: str) -> Settings:
    """``smpquery portinfo``: data lanes in operation and the limit of the high table."""
    found = {}
    if lanes := re.search(r"^OperVLs:\.*VL0(?:-(\d+))?$", text, re.MULTILINE):
        found["qos_max_vls"] = str(int(lanes[1] or 0) + 1)
    if limit := re.search(r"^VLHighLimit:\.*(\d+)$", text, re.MULTILINE):
        found["qos_high_limit"] = limit[1]
    return found


def parse_opensm(text: str) -> Settings:
    """The ``qos_*`` lines of OpenSM's configuration; its defaults are not written there."""
    return dict(re.findall(r"^(qos\w*)\s+(\S+)\s*$", text, re.MULTILINE))


def parse_dcb(text: str) -> Settings:
    """``dcb app|ets|pfc show``: lines that are ``name index:value ...``."""
    return {
        name: " ".join(rest.split())
        for name, rest in re.findall(r"^([a-z-]+)((?: \S+:\S+)+) *$", text, re.MULTILINE)
    }


def parse_mlnx_qos(text: str) -> Settings:
    """``mlnx_qos -i``: trust, DSCPs, PFC, and how each traffic class is scheduled for which priorities."""
    found = {}
    if trust := re.search(r"^Priority trust state:\s*(\w+)", text, re.MULTILINE):
        found["trust"] = trust[1]
    dscps = re.findall(r"^\s*prio:(\d) dscp:([\d,]+?),?\s*$", text, re.MULTILINE)
    if dscps:
        found["dscp-prio"] = " ".join(f"{d}:{prio}" for prio, listed in dscps for d in listed.split(","))
    if enabled := re.search(r"^\s*enabled\s+([01 \t]+)$", text, re.MULTILINE):
        flags = enumerate(enabled[1].split())
        found["prio-pfc"] = " ".join(f"{prio}:{'on' if flag == '1' else 'off'}" for prio, flag in flags)
    classes = _MLNX_CLASS.findall(text)
    if classes:
        found["tc-tsa"] = " ".join(f"{tc}:{tsa}" for tc, tsa, _, _ in classes)
        found["tc-bw"] = " ".join(f"{tc}:{share or 0}" for tc, _, share, _ in classes)
        found["prio-tc"] = " ".join(
            f"{prio}:{tc}" for tc, _, _, listed in classes for prio in re.findall(r"\d+", listed)
        )
    return found


def parse_qdiscs(text: str) -> Settings:
    """``tc qdisc show``: each queueing discipline by where it is attached."""
    lines = re.findall(r"^qdisc (\w+) (\S+) (root|parent \S+)(.*)$", text, re.MULTILINE)
    return {where: " ".join(f"{kind} {options}".split()) for kind, _, where, options in lines}


# --- reading ---------------------------------------------------------------------------------


def _asked(command: Sequence[str], parse: Callable[[str], Settings], run: Runner) -> Source:
    name = " ".join(command)
    try:
        return Source(name, parse(run(command)))
    except UnreadableError as error:
        return Source(name, obstacle=str(error))


def _read(path: Path, parse: Callable[[str], Settings]) -> Source:
    try:
        return Source(str(path), parse(path.read_text(errors="replace")))
    except OSError as error:
        return Source(str(path), obstacle=error.strerror or str(error))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S)
    except FileNotFoundError:
        raise UnreadableError(f"{command[0]} is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreadableError(str(error)) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UnreadableError(said[-1] if said else f"exit status {done.returncode}")
    return done.stdout
