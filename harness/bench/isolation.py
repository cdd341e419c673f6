"""``dualpath bench isolation``: do traffic classes keep KV out of the way of model communication?

Compute NICs (paper section 5) carry the collectives of a model's layers in the high class, and closed-loop
transfers of Layer Blocks, once in the same class and once in the low one; both are measured alone, too. Every
host has a process for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from harness.bench.bursts import layer_bursts, wire_s
from harness.bench.isolation_grounds import IsolationGround, OpenedSite, OpenSite
from harness.bench.isolation_metrics import SCENARIOS, Scenario, ScenarioResult, results
from harness.bench.isolation_plan import BLOCK_TOKENS, IsolationPlan
from harness.bench.traffic import ConfigsOf, Observation, TrafficProcesses, traffic
from harness.cluster import Mode
from harness.preparation import transport_config
from harness.sites.base import Site, SiteHost
from hosts.bench.phases import BurstCycle, KvTransfers, TorchGroup, TrafficConfig
from hosts.credentials import Credentials
from workloads.models import find_model

_WARM_UP_S = 1.0
_COOL_DOWN_S = 0.5
CPU_SATURATED = 0.9
"""Busy share of a host's cores, above which a round's times say more about its CPUs than about its links."""


class IsolationReport(msgspec.Struct, frozen=True):
    """The results, what made them and where, and each round's observations in the order of the rounds."""

    plan: IsolationPlan
    mode: Mode | Literal["rack"]
    place: str
    scale: dict[str, float]
    compute_nic_bytes_per_s: float
    collectives: BurstCycle
    kv: KvTransfers
    results: list[ScenarioResult]
    warnings: list[str]
    rounds: dict[Scenario, list[Observation]]


def bench_isolation(plan: IsolationPlan, ground: IsolationGround) -> IsolationReport:
    """Size the loads, raise the hosts, start the processes, run the scenarios in turn, compare."""
    scaled = ground.scaled(plan)
    bursts = layer_bursts(find_model(plan.model), scaled, plan.hosts, plan.batch_tokens, plan.context_tokens)
    kv = KvTransfers(scaled.geometry, -(-plan.context_tokens // BLOCK_TOKENS), plan.kv_depth)
    with ground.raised(plan, scaled) as open_site:
        rounds, warnings = asyncio.run(_measured(plan, ground, open_site, bursts, kv))
    link = scaled.compute_nic_bytes_per_s
    times = [wire_s(burst.bytes_to_peer, plan.hosts, link) for burst in bursts.bursts]
    return IsolationReport(
        plan=plan,
        mode=ground.mode,
        place=ground.name,
        scale=scaled.summary(),
        compute_nic_bytes_per_s=link,
        collectives=bursts,
        kv=kv,
        results=results(rounds, bursts, times),
        warnings=[*warnings, *_warnings(rounds)],
        rounds=rounds,
    )


def _warnings(rounds: Mapping[Scenario, Sequence[Observation]]) -> list[str]:
    """Where a machine and not its links may have decided: who waits for a CPU looks like who waits for a
    link."""
    late = {scenario: sum(o.cpu_busy > CPU_SATURATED for o in seen) for scenario, seen in rounds.items()}
    if not any(late.values()):
        return []
    where = ", ".join(f"{late[s]} of {len(rounds[s])} rounds of {s}" for s in rounds if late[s])
    return [
        f"CPUs more than {CPU_SATURATED:.0%} busy in {where}: times include waits for one; repeat when they "
        "are quiet or, on an emulated cluster, raise --time-dilation"
    ]


async def _measured(
    plan: IsolationPlan, ground: IsolationGround, open_site: OpenSite, bursts: BurstCycle, kv: KvTransfers
) -> tuple[dict[Scenario, list[Observation]], list[str]]:
    """Each scenario's observations, and what was said of the hosts."""
    found: dict[Scenario, list[Observation]] = {scenario: [] for scenario in plan.scenarios}
    async with open_site() as opened:
        configs_of = _configs(plan, ground, opened, bursts, kv)
        async with traffic(opened.site, configs_of, opened.logs) as processes:
            # Not recorded: the first seconds of new processes and connections are nobody's.
            await _observe(processes, "low_class", _WARM_UP_S)
            for number in range(plan.rounds):
                for scenario in _in_turn(plan.scenarios, number):
                    found[scenario].append(await _observe(processes, scenario, plan.seconds))
        return found, opened.warnings


def _configs(
    plan: IsolationPlan, ground: IsolationGround, opened: OpenedSite, bursts: BurstCycle, kv: KvTransfers
) -> ConfigsOf:
    """What the two processes of a host are told; the one for KV holds the host."""
    site = opened.site

    def of(host: SiteHost, credentials: Credentials) -> list[TrafficConfig]:
        group = None
        if plan.collectives != "transport":
            group = TorchGroup(plan.collectives, _gpu(site, host, ground), host.python)
        transport, hosts = transport_config(plan.transport, site, host, host.rails[0]), len(site.hosts)
        return [
            TrafficConfig(credentials, hosts, transport, bursts, group, first=ground.one_machine),
            TrafficConfig(credentials, hosts, transport, kv, claim=site.claim, first=ground.one_machine),
        ]

    return of


def _gpu(site: Site, host: SiteHost, ground: IsolationGround) -> str:
    """The host's first; hosts of one machine take its GPUs in turn: NCCL wants one for each process."""
    if host.gpus or not ground.one_machine:
        return next(iter(host.gpus), "")
    return str(site.hosts.index(host))


def _in_turn(scenarios: Sequence[Scenario], number: int) -> Sequence[Scenario]:
    """A B B A: the order is reversed from round to round."""
    return scenarios if number % 2 == 0 else scenarios[::-1]


async def _observe(processes: TrafficProcesses, scenario: Scenario, seconds: float) -> Observation:
    return await processes.run(SCENARIOS[scenario], _WARM_UP_S, seconds, _COOL_DOWN_S)
