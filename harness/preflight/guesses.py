"""A first inventory's host, guessed from what the host says of itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from harness.inventory import ComputeNic, InventoryHost, StorageNic
from harness.preflight.facts import HostFacts, Interface

_NO_NICS = ("bridge", "tun", "wireguard", "vxlan", "ipip", "sit", "gre", "ifb")
"""Drivers of what has an address and is no NIC."""


@dataclass(frozen=True, slots=True)
class Guess:
    """``host`` with NICs and GPUs, and why these NICs, by name. A reason that begins with ``guess`` rests on
    little."""

    host: InventoryHost
    storage_reason: str = ""
    compute_reasons: tuple[str, ...] = ()


def guess(host: InventoryHost, facts: HostFacts) -> Guess:
    """The storage NIC is the way to the store; compute NICs have RDMA, or are the fastest of the rest."""
    if host.role == "storage":
        return Guess(host)
    nics = sorted(filter(_is_candidate, facts.network.interfaces), key=_natural_order)
    management = _management(host, facts)
    storage, storage_reason = _storage_nic(nics, facts, management)
    rest = [nic for nic in nics if nic.name not in (management, storage.name if storage else "")]
    compute = _compute_nics(rest, facts)
    if not compute and storage:
        compute = [(storage, "guess: the storage NIC, too; no other one has an address")]
    gpus = tuple(gpu.pci for gpu in facts.gpus.gpus)
    return Guess(
        replace(
            host,
            engines=len(gpus) or None,
            storage_nic=StorageNic(name=storage.name, **_properties(storage)) if storage else None,
            compute_nics=tuple(_compute_nic(nic, facts) for nic, _ in compute),
            gpus=gpus,
        ),
        storage_reason,
        tuple(reason for _, reason in compute),
    )


def _is_candidate(nic: Interface) -> bool:
    return nic.up and bool(nic.usable) and nic.name != "lo" and nic.driver not in _NO_NICS


def _management(host: InventoryHost, facts: HostFacts) -> str:
    """The interface that the host is reached at."""
    for nic in facts.network.interfaces:
        if host.address in [own.address for own in nic.addresses]:
            return nic.name
    return facts.network.management.device


def _natural_order(nic: Interface) -> list[tuple[str, int]]:
    """eth2 before eth10."""
    parts = re.findall(r"(\D*)(\d*)", nic.name)
    return [(letters, int(digits or -1)) for letters, digits in parts]


def _storage_nic(
    nics: Sequence[Interface], facts: HostFacts, management: str
) -> tuple[Interface | None, str]:
    """The NIC and why it is."""
    store = facts.stores[0] if facts.stores else None
    if store and store.route and store.route.device:
        found = next((nic for nic in nics if nic.name == store.route.device), None)
        if found:
            return found, f"the way to {store.route.address or store.server}, where {store.place} is"
    others = [nic for nic in nics if nic.name != management]
    without_rdma = [nic for nic in others if facts.rdma.of(nic.name) is None]
    unknown = "which way the storage is, is not known"
    for choice, why in (
        (without_rdma, "the first without RDMA"),
        (others, "the first"),
        (nics, "the only one"),
    ):
        if choice:
            return choice[0], f"guess: {why}; {unknown}"
    return None, ""


def _compute_nics(nics: Sequence[Interface], facts: HostFacts) -> list[tuple[Interface, str]]:
    """Each with why it is one."""
    with_rdma = [(nic, port) for nic in nics if (port := facts.rdma.of(nic.name))]
    if with_rdma:
        return [(nic, f"RDMA, {port.link_layer}, {port.state}") for nic, port in with_rdma]
    fastest = max((nic.gbit_per_s for nic in nics), default=0.0)
    why = "the fastest that is left" if fastest else "what is left; rates are not known"
    return [(nic, f"guess: {why}") for nic in nics if nic.gbit_per_s == fastest]


def _compute_nic(nic: Interface, facts: HostFacts) -> ComputeNic:
    port = facts.rdma.of(nic.name)
    properties = _properties(nic)
    if port is None:
        return ComputeNic(name=nic.name, **properties)
    return ComputeNic(name=nic.name, device=port.device, port=port.port, **properties)


def _properties(nic: Interface) -> dict[str, Any]:
    """What both kinds of NIC have, as far as it is known."""
    return {"numa": nic.numa, "gbit_per_s": nic.gbit_per_s or None}
