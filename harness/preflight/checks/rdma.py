"""RDMA: the compute NICs' ports, their GIDs, and the library that verbs are posted with."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from harness.inventory import ComputeNic
from harness.preflight.case import AS_ROOT, Case, address_of
from harness.preflight.facts import Gid, RdmaPort
from harness.preflight.findings import Finding, Severity


def ports(case: Case) -> Iterator[Finding]:
    """Each compute NIC has an active port of its own, with a GID. Verbs cannot do without, NIXL's UCX can."""
    transport = case.needs.transport if case.needs else None
    if transport == "tcp" or case.facts.rdma.error:
        return
    severity: Severity = "error" if transport == "verbs" else "info"
    users: dict[str, str] = {}
    for nic in case.host.compute_nics:
        port, problem = _port(case, nic)
        if port is not None and (other := users.setdefault(str(port), nic.name)) != nic.name:
            yield case.finding(
                severity,
                "rdma",
                f"{port}: found for compute NICs {other} and {nic.name}, expected one each",
                "name each one's own device in the inventory, and none in the experiment (transport.verbs)",
            )
        elif port is not None:
            yield from _of_port(case, nic, port, severity)
        elif transport is not None:
            found = ", ".join(f"{p} ({p.interface or p.link_layer})" for p in case.facts.rdma.ports)
            gpu_direct = case.needs is not None and case.needs.gpu_direct  # which TCP cannot do
            yield case.finding(
                severity,
                "rdma",
                f"{problem}, found {found or 'no RDMA device'}",
                f"name device (and port) of compute NIC {nic.name} in the inventory, load its driver "
                f"(modprobe mlx5_ib, {AS_ROOT})"
                + ("" if gpu_direct else ', or set transport.kind = "tcp" in the experiment'),
            )


def _of_port(case: Case, nic: ComputeNic, port: RdmaPort, severity: Severity) -> Iterator[Finding]:
    """Its state and its GID."""
    if port.state != "ACTIVE":
        yield case.finding(
            severity,
            "rdma",
            f"{port}: found {port.state}, expected ACTIVE",
            f"cable and switch (InfiniBand: is a subnet manager running?), or ip link set {nic.name} up "
            f"({AS_ROOT})",
        )
    problem = _gid_problem(case, nic, port)
    if problem:
        known = ", ".join(f"{gid.index}: {gid.gid} ({gid.type or port.link_layer})" for gid in port.gids)
        yield case.finding(
            severity,
            "rdma",
            f"{port}: {problem}; found {known or 'no GID'}",
            f"set gid_index of compute NIC {nic.name} in the inventory to one of these, or leave it out",
        )
    elif port.state == "ACTIVE":
        yield case.ok("rdma", f"{port}: {port.link_layer}, {port.gbit_per_s:g} Gbit/s, {len(port.gids)} GIDs")


def _port(case: Case, nic: ComputeNic) -> tuple[RdmaPort | None, str]:
    """As the agents find it: by name where the inventory or else the experiment has one, by address, by
    interface (`hosts.transport.verbs.port`)."""
    known, verbs = case.facts.rdma.ports, case.needs.verbs if case.needs else None
    device, number = nic.device, nic.port
    if not device and verbs is not None:
        device, number = verbs.device, verbs.port
    if device:
        named = next((port for port in known if (port.device, port.port) == (device, number)), None)
        return named, f"{device} port {number}: not there"
    gid = _as_gid(address_of(nic, case.facts))
    having = next((port for port in known if any(entry.gid == gid for entry in port.gids)), None)
    return having or case.facts.rdma.of(nic.name), f"no RDMA port has the address of {nic.name}"


def _gid_problem(case: Case, nic: ComputeNic, port: RdmaPort) -> str:
    """Nothing, or what is wrong with the entry of the GID table that is meant."""
    index = nic.gid_index
    if index < 0 and case.needs is not None:
        index = case.needs.verbs.gid_index
    if index >= 0:
        entry: Gid | None = next((gid for gid in port.gids if gid.index == index), None)
        if entry is None:
            return f"GID index {index} is empty"
        return f"GID index {index} is RoCE v1, which is not routed as UDP" if "v1" in entry.type else ""
    return "" if port.gids else "its GID table is empty"


def _as_gid(address: str) -> str:
    """The GID that RoCE gives an address (IPv4: mapped into IPv6)."""
    if not address:
        return ""
    parsed = ipaddress.ip_address(address)
    return (ipaddress.IPv6Address(f"::ffff:{parsed}") if parsed.version == 4 else parsed).exploded


def verbs_library(case: Case) -> Iterator[Finding]:
    """pyverbs comes with the distribution's libibverbs, not with us."""
    if case.needs is None or case.needs.transport != "verbs" or case.host.role == "storage":
        return
    found = case.facts.tools
    if found.pyverbs_error:
        packages = f"python3-pyverbs {found.pyverbs_package or 'not installed'}, libibverbs "
        yield case.error(
            "pyverbs",
            f"{found.pyverbs_error} ({packages}{found.libibverbs_package or 'not installed'})",
            f"apt-get install rdma-core ibverbs-providers python3-pyverbs ({AS_ROOT}), for the Python that "
            "the inventory names",
        )
    else:
        yield case.ok("pyverbs", f"{found.pyverbs_package}, libibverbs {found.libibverbs_package}")
