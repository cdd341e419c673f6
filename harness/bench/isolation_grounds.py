"""Where traffic isolation is measured: an emulated cluster of this machine, or the hosts of an inventory."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal, NamedTuple, Protocol

from msgspec.structs import replace

import harness.experiment as sections
from harness.bench.isolation_plan import BLOCK_TOKENS, IsolationPlan
from harness.cluster import ClusterError, ClusterSpec, HighClass, Mode, open_cluster
from harness.experiment import ExperimentError
from harness.inventory import Inventory
from harness.inventory.choosing import on_hosts
from harness.launchers import open_launcher
from harness.preflight import Needs
from harness.scale_model import ScaleModel, scale
from harness.sites.base import Site
from harness.sites.emulated import emulated_site
from harness.sites.rack import RackGround, host_claim, ready_hosts
from workloads.models import find_model


class OpenedSite(NamedTuple):
    """Hosts that are up, where logs go, and what may matter about them."""

    site: Site
    logs: Path
    warnings: list[str]


OpenSite = Callable[[], AbstractAsyncContextManager[OpenedSite]]


class IsolationGround(Protocol):
    """Where hosts come from."""

    @property
    def one_machine(self) -> bool:
        """Whether all of them are this machine, and share its CPUs."""
        ...

    @property
    def mode(self) -> Mode | Literal["rack"]:
        """The kind of cluster."""
        ...

    @property
    def name(self) -> str:
        """What it is called beside what was measured there."""
        ...

    def scaled(self, plan: IsolationPlan) -> ScaleModel:
        """Sizes and rates as a run of an experiment on such hosts would have them, of what shares one compute
        NIC; raises ExperimentError."""
        ...

    def raised(self, plan: IsolationPlan, scaled: ScaleModel) -> AbstractContextManager[OpenSite]:
        """Everything that has to be there until the measurement's end."""
        ...


@dataclass(frozen=True, slots=True)
class EmulatedHosts:
    """See `IsolationGround`: half of the hosts prefill and half decode hosts, which here do the same."""

    mode: Mode
    one_machine: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """See `IsolationGround`."""
        return f"emulated cluster, {self.mode.replace('_', ' ')}"

    def scaled(self, plan: IsolationPlan) -> ScaleModel:
        """See `IsolationGround`: a host's compute NICs are one of their total rate."""
        return _scaled(_experiment(plan, *_halves(plan)))

    @contextmanager
    def raised(self, plan: IsolationPlan, scaled: ScaleModel) -> Iterator[OpenSite]:
        """See `IsolationGround`. The calling thread is on the control node meanwhile."""
        if self.mode == "loopback":
            raise ClusterError(
                "traffic classes are kept by shaped links, which mode loopback has none of; "
                "fix: run as root, or allow unprivileged user namespaces"
            )
        spec = ClusterSpec(
            *_halves(plan),
            scaled.storage_nic_bytes_per_s,
            scaled.compute_nic_bytes_per_s,
            high_class=HighClass(tos=plan.transport.classes["high"].traffic_class),
            soft_roce=plan.transport.kind == "verbs",
        )
        with open_cluster(spec, self.mode) as cluster:
            cluster.enter_control_namespace()

            @asynccontextmanager
            async def opened() -> AsyncIterator[OpenedSite]:
                async with emulated_site(cluster) as site:
                    hosts = tuple(host for host in site.hosts if host.role != "storage")
                    yield OpenedSite(dataclasses.replace(site, hosts=hosts), cluster.scratch, [])

            yield opened


@dataclass(frozen=True, slots=True)
class RackHosts:
    """See `IsolationGround`: all prefill and decode hosts of an inventory, each with its first compute NIC.
    ``progress`` gets a line for each step of making them ready."""

    inventory: Inventory
    progress: Callable[[str], None]
    mode: ClassVar[Literal["rack"]] = "rack"
    one_machine: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """See `IsolationGround`."""
        return RackGround(self.inventory).name

    def scaled(self, plan: IsolationPlan) -> ScaleModel:
        """See `IsolationGround`: a real NIC is one of several, and one engine's."""
        inventory = self.inventory
        roles = [len(inventory.of_role(role)) for role in ("prefill", "decode")]
        scaled = _scaled(on_hosts(_experiment(plan, *roles), inventory))
        if inventory.scale == "experiment":
            return scaled
        if (plan.bytes_divisor, plan.time_dilation) != (1, 1):
            raise ExperimentError(
                f"--bytes-divisor, --time-dilation: found {plan.bytes_divisor:g}, {plan.time_dilation:g}, "
                f"expected 1, 1: the links of inventory {inventory.name} are real"
            )
        stated = [host.compute_nics[0].gbit_per_s for host in inventory.hosts if host.role != "storage"]
        known = [rate * 1e9 / 8 for rate in stated if rate]
        nic = min(known) if known else scaled.compute_nic_bytes_per_s / scaled.engines_per_host
        return dataclasses.replace(scaled, engines_per_host=1, compute_nic_bytes_per_s=nic)

    @contextmanager
    def raised(self, plan: IsolationPlan, scaled: ScaleModel) -> Iterator[OpenSite]:
        """See `IsolationGround`. Hosts say whose they are meanwhile."""
        serving = tuple(host for host in self.inventory.hosts if host.role != "storage")
        inventory = replace(self.inventory, hosts=serving)
        with TemporaryDirectory(prefix="dualpath-isolation-") as logs:
            yield lambda: self._opened(inventory, plan, Path(logs))

    @asynccontextmanager
    async def _opened(
        self, inventory: Inventory, plan: IsolationPlan, logs: Path
    ) -> AsyncIterator[OpenedSite]:
        needs = Needs(
            transport=plan.transport.kind,
            verbs=plan.transport.verbs,
            compute="timed" if plan.collectives == "transport" else "torch",
            device="cuda" if plan.collectives == "nccl" else "cpu",
            without_torch="--collectives transport",
            without_gpu="--collectives gloo",
        )
        run_id = secrets.token_hex(4)
        async with open_launcher(inventory) as launcher:
            self.progress(f"checking {len(inventory.hosts)} hosts")
            ready = await ready_hosts(launcher, inventory, needs, run_id, self.progress)
            site = Site(run_id, ready.hosts, ready.control_address, launcher, claim=host_claim(run_id))
            yield OpenedSite(site, logs, ready.warnings)


def _halves(plan: IsolationPlan) -> tuple[int, int]:
    return plan.hosts // 2, plan.hosts - plan.hosts // 2


def _experiment(plan: IsolationPlan, prefill_hosts: int, decode_hosts: int) -> sections.Experiment:
    return sections.Experiment(
        name="isolation",
        model=plan.model,
        workload=sections.Workload(synthesize="paper-64k"),
        replay=sections.Replay(agents=1),
        cluster=sections.Cluster(
            prefill_hosts=prefill_hosts, decode_hosts=decode_hosts, profile=plan.profile
        ),
        scale=sections.Scale(bytes_divisor=plan.bytes_divisor, time_dilation=plan.time_dilation),
        transport=plan.transport,
    )


def _scaled(experiment: sections.Experiment) -> ScaleModel:
    profile = sections.load_profile(experiment.cluster.profile).replaced(experiment.cluster.replace)
    return scale(experiment, profile, find_model(experiment.model), BLOCK_TOKENS)
