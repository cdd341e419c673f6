"""What checks are given: the whole rack, or one host of it with what it said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.inventory import ComputeNic, Inventory, InventoryHost, StorageNic
from harness.preflight.facts import HostFacts, Store
from harness.preflight.findings import Finding, Severity
from harness.preflight.needs import Needs

AS_ROOT = "as root, once; dualpath itself never uses sudo"


@dataclass(frozen=True, slots=True)
class Rack:
    """``facts`` are of the hosts that answered; ``needs`` are unknown without an experiment."""

    inventory: Inventory
    facts: Mapping[str, HostFacts]
    needs: Needs | None

    @property
    def answered(self) -> list[InventoryHost]:
        """Hosts with facts, in the inventory's order."""
        return [host for host in self.inventory.hosts if host.name in self.facts]


@dataclass(frozen=True, slots=True)
class Case:
    """One host that answered."""

    rack: Rack
    host: InventoryHost
    facts: HostFacts

    @property
    def needs(self) -> Needs | None:
        """The experiment's, if there is one."""
        return self.rack.needs

    @property
    def store(self) -> Store | None:
        """Where this host is to find the KV store, as it found it."""
        return self.facts.stores[0] if self.facts.stores else None

    def finding(self, severity: Severity, check: str, evidence: str, fix: str = "") -> Finding:
        """One about this host."""
        return Finding(severity, self.host.name, check, evidence, fix)

    def error(self, check: str, evidence: str, fix: str) -> Finding:
        """What keeps a run from being valid, or from starting."""
        return self.finding("error", check, evidence, fix)

    def warning(self, check: str, evidence: str, fix: str) -> Finding:
        """What may distort a run."""
        return self.finding("warning", check, evidence, fix)

    def info(self, check: str, evidence: str, fix: str = "") -> Finding:
        """What is worth knowing."""
        return self.finding("info", check, evidence, fix)

    def ok(self, check: str, evidence: str) -> Finding:
        """What is as it should be."""
        return self.finding("ok", check, evidence)


def address_of(nic: StorageNic | ComputeNic, facts: HostFacts) -> str:
    """The NIC's address: the inventory's, or the interface's first one that others can name; else empty."""
    interface = facts.network.interface(nic.name)
    return nic.address or (interface.usable[0].address if interface and interface.usable else "")


def listed(names: list[str], limit: int = 4) -> str:
    """``d0, d1, d2, d3 and 60 more``."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def in_words(nbytes: float) -> str:
    """In words."""
    value, unit = (nbytes / 1e9, "GB") if nbytes >= 1e9 else (nbytes / 1e6, "MB")
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
