"""The networks between hosts: NICs answer each other, through themselves, with packets of full size."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from harness.inventory import ComputeNic, InventoryHost, StorageNic
from harness.preflight.case import AS_ROOT, Case, Rack, listed
from harness.preflight.checks.nics import RATE_TOLERANCE
from harness.preflight.facts import Interface, NicReach, Peer
from harness.preflight.findings import Finding

NO_ANSWER = "no answer"
"""What the probe says of silence; anything else is the kernel's reason."""


def peers(case: Case) -> Iterator[Finding]:
    """Hosts of the other role are reached through each compute NIC, and answer there."""
    for reach in case.facts.reach.nics if case.facts.reach else ():
        if reach.error:
            yield case.warning(
                "compute network",
                f"could not be found out of a compute NIC: {reach.error}",
                "look into it on the host, then check again",
            )
        else:
            yield from _peers(case, reach)


def _peers(case: Case, reach: NicReach) -> Iterator[Finding]:
    """What one NIC's said."""
    at = f"{reach.nic}, {reach.source}"
    alike: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for peer in reach.peers:
        alike[_problem(peer, reach.nic)].append(f"{peer.peer} ({peer.address})")
    for (problem, kind), names in alike.items():
        who = listed(names)
        if kind == "none":
            yield case.ok(
                "compute network", f"{at}: answered by {who}, packets up to {reach.full_bytes} bytes"
            )
        elif kind == "silence":
            yield case.warning(
                "compute network",
                f"{at}: no answer from {who}",
                "are they on one network (VLAN, switch), and does no firewall drop UDP and ICMP there?",
            )
        elif kind == "mtu":
            yield case.error(
                "mtu",
                f"{at}: packets of {reach.full_bytes} bytes do not get to {who} ({problem}), small ones do",
                f"one MTU on both ends and the switches between: ip link set {reach.nic} mtu BYTES "
                f"({AS_ROOT})",
            )
        else:
            yield case.error("compute network", f"{at}: {problem}: {who}", _readdress(case, reach.nic))


def pairs(rack: Rack) -> Iterator[Finding]:
    """How many pairs of a prefill and a decode host were tried, either way, where it was not all of them."""
    roles = Counter(host.role for host in rack.answered if host.compute_nics)
    everyone = 2 * roles["prefill"] * roles["decode"]
    reaches = (facts.reach.nics for facts in rack.facts.values() if facts.reach)
    tried = sum(len({peer.peer for nic in nics for peer in nic.peers}) for nics in reaches)
    if 0 < tried < everyone:
        yield Finding("info", "", "compute network", f"{tried} of {everyone} pairs of hosts tried")


def _problem(peer: Peer, nic: str) -> tuple[str, str]:
    """What is wrong between a NIC and a peer's, and of what kind."""
    if peer.route.error:
        return f"no route ({peer.route.error})", "route"
    if peer.route.device != nic:
        return f"the way there is through {peer.route.device}, not through it", "route"
    if peer.small == NO_ANSWER:
        return NO_ANSWER, "silence"
    if peer.small:
        return f"nobody there ({peer.small})", "route"
    return (peer.full, "mtu") if peer.full else ("", "none")


def _readdress(case: Case, nic: str) -> str:
    interface = case.facts.network.interface(nic)
    found = str(interface.usable[0].network) if interface and interface.usable else "none"
    return (
        f"{nic} is in {found}: all hosts' compute NICs of a rail (the first ones, the second ones) belong in "
        "one network, or have routes to each other through themselves; correct the address, or name the "
        "right interface in compute_nics"
    )


def rates(rack: Rack) -> Iterator[Finding]:
    """One link rate for all storage NICs, and one for all compute NICs."""
    for network in ("storage", "compute"):
        found = [(h.name, nic.name, _rate(nic, of)) for h, nic, of in _interfaces(rack, network)]
        fastest = max((rate for *_, rate in found), default=0.0)
        for host, nic, rate in found:
            if 0 < rate < fastest * (1 - RATE_TOLERANCE):
                yield Finding(
                    "warning",
                    host,
                    f"{network} nic",
                    f"{nic}: link at {rate:g} Gbit/s, other {network} NICs at {fastest:g}",
                    "look at cable and switch port (ethtool), or leave the host out",
                )


def mtus(rack: Rack) -> Iterator[Finding]:
    """One MTU along each network; whether packets get through, `peers` says."""
    for network in ("storage", "compute"):
        found = [(host.name, nic.name, of.mtu) for host, nic, of in _interfaces(rack, network)]
        if not found:
            continue
        (common, _), *_ = Counter(mtu for *_, mtu in found).most_common(1)
        for host, nic, mtu in found:
            if mtu != common:
                yield Finding(
                    "warning",
                    host,
                    "mtu",
                    f"{network} NIC {nic} has MTU {mtu}, most others have {common}",
                    f"one MTU along the {network} network: ip link set NIC mtu {common} ({AS_ROOT})",
                )


_Nic = StorageNic | ComputeNic
_CHOSEN: dict[str, Callable[[InventoryHost], Sequence[_Nic]]] = {
    "storage": lambda host: [host.storage_nic] if host.storage_nic else [],
    "compute": lambda host: host.compute_nics,
}


def _interfaces(rack: Rack, network: str) -> Iterator[tuple[InventoryHost, _Nic, Interface]]:
    """Every host's NICs of that network that are there."""
    for host in rack.answered:
        for nic in _CHOSEN[network](host):
            if interface := rack.facts[host.name].network.interface(nic.name):
                yield host, nic, interface


def _rate(nic: _Nic, interface: Interface) -> float:
    """As the driver says it, else as the inventory does; 0 if neither does."""
    return interface.gbit_per_s or nic.gbit_per_s or 0.0
