"""A rack as a site: the hosts of an inventory, looked at and made ready over its launcher."""

from __future__ import annotations

import getpass
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from harness.bundle import Installed, deploy_bundle
from harness.calibration.result import Calibration
from harness.circumstances import now
from harness.cluster import Nic, RunClaim
from harness.experiment import Experiment, to_toml
from harness.host_error import HostError
from harness.inventory import ComputeNic, Inventory, InventoryHost
from harness.inventory.choosing import chosen_hosts, on_hosts
from harness.launchers import Launcher, open_launcher
from harness.preflight import HostFacts, Needs, Preflight, examine, needs_of
from harness.preparation import Preparation, prepare
from harness.run import Run
from harness.sites.base import Site, SiteHost, SiteRail, StorageAccess
from harness.sites.ground import OpenSite
from harness.sites.rack_storage import RackStorage
from hosts.claim import Claim
from hosts.leftovers import stored_name

_UDP_DISCARD = 9


@dataclass(frozen=True, slots=True)
class RackGround:
    """See `Ground`; hosts of ``inventory``, those that an experiment takes, and what was measured there."""

    inventory: Inventory
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        """See `Ground.name`."""
        scaled = "made for the experiment's scale" if self.inventory.scale == "experiment" else "real"
        return f"rack {self.inventory.name}, launched by {_kind(self.inventory)}; links {scaled}"

    def prepared(self, experiment: Experiment) -> Preparation:
        """See `Ground.prepared`: on links at the hardware's own rate, with nothing scaled down."""
        return prepare(on_hosts(experiment, self.inventory))

    def describe(self) -> dict[str, Any]:
        """See `Ground.describe`."""
        places = [self.inventory.storage_of(h) for h in self.inventory.hosts if h.role != "storage"]
        return {
            "mode": "rack",
            "storage": "posix" if places[0].mount else "http",
            "labels": [self.name],
        }

    @contextmanager
    def raised(self, run: Run) -> Iterator[OpenSite]:
        """See `Ground.raised`. A record of the run stays if something of it stays on a host."""
        run.store.save("inventory.toml", to_toml(self.inventory).encode())
        taken = chosen_hosts(self.inventory, run.preparation.experiment)
        with RunClaim(inventory=to_toml(taken)) as claim:
            try:
                yield lambda: _site(taken, self.calibration, claim, run)
            except BaseException as error:
                if claim.left:
                    error.add_note(claim.left)
                raise
            if claim.left:
                run.store.metadata["warnings"].append(claim.left)


@dataclass(frozen=True, slots=True)
class ReadyHosts:
    """Hosts that anything of ours can be started on; what was found there that may matter."""

    hosts: tuple[SiteHost, ...]
    installed: Mapping[str, Installed]
    control_address: str
    warnings: list[str]


async def ready_hosts(
    launcher: Launcher, inventory: Inventory, needs: Needs, run_id: str, progress: Callable[[str], None]
) -> ReadyHosts:
    """The hosts of an inventory, ready for a run; raises HostError:

    1. reach them all
    2. look at them all, and refuse what nothing measured there can be valid on
    3. bring them what an agent needs
    """
    found = await examine(launcher, inventory, needs)
    warnings = _heeded(found)
    installed = await deploy_bundle(launcher, inventory, progress=progress)
    first = inventory.hosts[0]
    peer = first.address or found.facts[first.name].network.management.address
    return ReadyHosts(
        hosts=tuple(
            _host(inventory, host, found.facts[host.name], installed[host.name], run_id)
            for host in inventory.hosts
        ),
        installed=installed,
        control_address=inventory.control_address or _address_towards(peer),
        warnings=warnings,
    )


@asynccontextmanager
async def _site(
    inventory: Inventory, calibration: Calibration | None, claim: RunClaim, run: Run
) -> AsyncIterator[Site]:
    """The hosts, ready, and the run's place in the KV store; that is removed at the end."""
    async with open_launcher(inventory) as launcher:
        async with run.phase("deploy", f"checking {len(inventory.hosts)} hosts"):
            needs = needs_of(run.preparation)
            ready = await ready_hosts(launcher, inventory, needs, claim.run_id, run.progress.phase)
            run.store.metadata["warnings"] = [*run.preparation.warnings, *ready.warnings]
        async with RackStorage(launcher, inventory, ready.installed, claim).made():
            yield Site(
                run_id=claim.run_id,
                hosts=ready.hosts,
                control_address=ready.control_address,
                launcher=launcher,
                calibration=calibration,
                claim=host_claim(claim.run_id),
            )


def host_claim(run_id: str) -> Claim:
    """What hosts say while they belong to a run of this control node."""
    return Claim(run_id, getpass.getuser(), now(), socket.gethostname())


def _heeded(found: Preflight) -> list[str]:
    """Warnings, to be kept beside results; raises HostError for the first error, with how many there are."""
    errors = [finding for finding in found.findings if finding.severity == "error"]
    if errors:
        first = errors[0]
        fix = f"; fix: {first.fix}" if first.fix else ""
        more = f"; and {len(errors) - 1} more, see 'dualpath check'" if len(errors) > 1 else ""
        raise HostError(first.host or "control", f"{first.check}: {first.evidence}{fix}{more}")
    return [
        f"check, {f'host {finding.host}, ' if finding.host else ''}{finding.check}: {finding.evidence}"
        for finding in found.findings
        if finding.severity == "warning"
    ]


def _host(
    inventory: Inventory, host: InventoryHost, facts: HostFacts, installed: Installed, run_id: str
) -> SiteHost:
    """As the inventory describes it, what it leaves open as the host itself says."""
    nics = tuple(_nics(inventory, host, facts))
    rails = tuple(_rail(nic, host, facts) for nic in host.compute_nics)
    place, name = inventory.storage_of(host), stored_name(run_id)
    return SiteHost(
        name=host.name,
        role=host.role,
        argv=installed.argv,
        rails=rails or (SiteRail(facts.network.management.address),),
        nics=nics,
        storage=StorageAccess(
            root=f"{place.mount}/{name}" if place.mount else "",
            url=f"{place.url.rstrip('/')}/{name}" if place.url else "",
        ),
        gpus=host.gpus,
        python=inventory.python,
    )


def _nics(inventory: Inventory, host: InventoryHost, facts: HostFacts) -> Iterator[Nic]:
    """Those that are sampled. Nothing shapes a rack's NICs, so they have no nominal rate to be held against,
    unless the rack stands for a faster one."""
    scaled = inventory.scale == "experiment"
    if host.storage_nic is not None:
        rate = host.storage_nic.gbit_per_s if scaled else None
        yield Nic(
            host.storage_nic.name,
            "storage",
            host.storage_nic.address or _address_of(host, host.storage_nic.name, facts),
            rate * 1e9 / 8 if rate else None,
        )
    for nic in host.compute_nics:
        yield Nic(nic.name, "compute", nic.address or _address_of(host, nic.name, facts))


def _address_of(host: InventoryHost, name: str, facts: HostFacts) -> str:
    interface = facts.network.interface(name)
    if interface is None or not interface.usable:
        raise HostError(host.name, f"NIC {name}: has no address, expected one; fix: ip address add")
    return interface.usable[0].address


def _rail(nic: ComputeNic, host: InventoryHost, facts: HostFacts) -> SiteRail:
    """With its RDMA port, where the inventory names one."""
    rdma = (nic.device, nic.port, nic.gid_index) if nic.device else None
    return SiteRail(nic.address or _address_of(host, nic.name, facts), nic.name, rdma)


def _address_towards(address: str) -> str:
    """This machine's own, as packets to ``address`` carry it; none is sent (udp(7))."""
    try:
        [*_, (family, _, _, _, target)] = socket.getaddrinfo(address, _UDP_DISCARD, type=socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise HostError(
            "control",
            f"no way to {address or 'hosts'}: {error.strerror}; fix: set control_address in the inventory",
        ) from None


def _kind(inventory: Inventory) -> str:
    return type(inventory.launcher).__name__.removesuffix("Launcher").lower()
