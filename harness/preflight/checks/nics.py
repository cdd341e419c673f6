"""The NICs that the inventory names: there, up, with an address, and idle."""

from __future__ import annotations

from collections.abc import Iterator

from harness.inventory import ComputeNic, StorageNic
from harness.preflight.case import AS_ROOT, Case, address_of
from harness.preflight.findings import Finding

RATE_TOLERANCE = 0.05
_BUSY = 0.01
_BUSY_UNKNOWN_BYTES_PER_S = 1e6
"""What counts as other load on a link whose rate is not known."""


def storage_nic(case: Case) -> Iterator[Finding]:
    """The one that storage is read through."""
    if case.host.storage_nic is not None:
        yield from _nic(case, "storage nic", case.host.storage_nic)


def compute_nics(case: Case) -> Iterator[Finding]:
    """Those that KV moves between hosts through."""
    for nic in case.host.compute_nics:
        yield from _nic(case, "compute nic", nic)
    storage = case.host.storage_nic
    if storage and storage.name in {nic.name for nic in case.host.compute_nics}:
        yield case.warning(
            "compute nic",
            f"{storage.name} is the storage NIC, too: storage reads and KV share its link",
            "name another interface in compute_nics, if the host has one",
        )


def _nic(case: Case, check: str, nic: StorageNic | ComputeNic) -> Iterator[Finding]:
    network = case.facts.network
    if network.error:
        return
    interface = network.interface(nic.name)
    if interface is None:
        others = ", ".join(
            f"{other.name} ({other.usable[0].address if other.usable else 'no address'})"
            for other in network.interfaces
            if other.name != "lo"
        )
        yield case.error(
            check,
            f"{nic.name}: no such interface, found {others or 'none'}",
            f"name one of these in the inventory, in place of '{nic.name}'",
        )
        return
    if not interface.up:
        yield case.error(
            check,
            f"{nic.name}: is {interface.state}, expected UP",
            f"ip link set {nic.name} up ({AS_ROOT}); if it stays down: cable, transceiver, switch port",
        )
    own = [address.address for address in interface.addresses]
    if nic.address and nic.address not in own:
        yield case.error(
            check,
            f"{nic.name}: has no address {nic.address}, found {', '.join(own) or 'none'}",
            f"correct its address in the inventory, or ip address add {nic.address}/PREFIX dev {nic.name} "
            f"({AS_ROOT})",
        )
    elif not address_of(nic, case.facts):
        yield case.error(
            check,
            f"{nic.name}: has no address that other hosts can name, found {', '.join(own) or 'none'}",
            f"ip address add ADDRESS/PREFIX dev {nic.name} ({AS_ROOT})",
        )
    elif interface.up:
        rate = f", {interface.gbit_per_s:g} Gbit/s" if interface.gbit_per_s else ""
        yield case.ok(check, f"{nic.name}: {address_of(nic, case.facts)}, MTU {interface.mtu}{rate}")
        if not interface.gbit_per_s and not nic.gbit_per_s:
            yield case.info(
                check,
                f"{nic.name}: its driver does not tell the link's rate",
                "state gbit_per_s in the inventory, if it is known",
            )
    stated = nic.gbit_per_s
    if stated and interface.gbit_per_s and abs(interface.gbit_per_s / stated - 1) > RATE_TOLERANCE:
        yield case.warning(
            check,
            f"{nic.name}: link at {interface.gbit_per_s:g} Gbit/s, the inventory states {stated:g}",
            "look at cable and switch port (ethtool), or correct gbit_per_s in the inventory",
        )
    if nic.numa >= 0 and interface.numa >= 0 and nic.numa != interface.numa:
        yield case.warning(
            check,
            f"{nic.name}: on NUMA node {interface.numa}, the inventory states {nic.numa}",
            "correct numa in the inventory",
        )


def traffic(case: Case) -> Iterator[Finding]:
    """Nobody else uses them: over the interface, or by RDMA, which it does not count."""
    listed = [nic for nic in (case.host.storage_nic, *case.host.compute_nics) if nic is not None]
    idle = []
    for name in dict.fromkeys(nic.name for nic in listed):
        interface, port = case.facts.network.interface(name), case.facts.rdma.of(name)
        if interface is None:
            continue
        received = interface.rx_bytes_per_s + (port.rx_bytes_per_s if port else 0.0)
        sent = interface.tx_bytes_per_s + (port.tx_bytes_per_s if port else 0.0)
        rate_bytes_per_s = interface.gbit_per_s * 1e9 / 8
        if max(received, sent) > (rate_bytes_per_s * _BUSY or _BUSY_UNKNOWN_BYTES_PER_S):
            yield case.warning(
                "nic load",
                f"{name}: carries {received * 8 / 1e9:.2f} Gbit/s in and {sent * 8 / 1e9:.2f} out, expected "
                "nothing",
                "stop what else uses it, or wait for its end",
            )
        else:
            idle.append(name)
    if idle:
        yield case.ok("nic load", f"{', '.join(idle)} idle")
