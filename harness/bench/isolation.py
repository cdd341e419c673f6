"""``dualpath bench isolation``: do traffic classes keep KV out of the way of model communication?

The emulated cluster's compute NICs (paper section 5) carry the collectives of a model's layers in the high
class, and closed-loop transfers of Layer Blocks, once in the same class and once in the low one; both are
measured alone, too. Every host has a process for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

import harness.experiment as sections
from harness.bench.bursts import layer_bursts, wire_s
from harness.bench.isolation_metrics import SCENARIOS, Scenario, ScenarioResult, results
from harness.bench.traffic import Observation, TrafficProcesses, traffic
from harness.cluster import Cluster, ClusterError, ClusterSpec, Mode, open_cluster
from harness.scale_model import ScaleModel, scale
from hosts.bench.phases import BurstCycle, KvTransfers, Load
from hosts.config import TransportConfig
from workloads.models import find_model

_BLOCK_TOKENS = 64
_WARM_UP_S = 1.0
_COOL_DOWN_S = 0.5
CPU_SATURATED = 0.9
"""Busy share of all cores, above which a round's times say more about the machine than about its links."""


class IsolationPlan(msgspec.Struct, frozen=True):
    """What is measured. ``hosts`` are all alike; ``batch_tokens`` an engine computes of ``context_tokens``;
    ``seconds`` count, emulated, of each scenario in each round."""

    scenarios: tuple[Scenario, ...]
    rounds: int
    seconds: float
    hosts: int
    model: str
    profile: str
    bytes_divisor: float
    time_dilation: float
    batch_tokens: int
    context_tokens: int
    kv_depth: int


class IsolationReport(msgspec.Struct, frozen=True):
    """The results, what made them, and each round's observations in the order of the rounds."""

    plan: IsolationPlan
    mode: Mode
    scale: dict[str, float]
    compute_nic_bytes_per_s: float
    collectives: BurstCycle
    kv: KvTransfers
    results: list[ScenarioResult]
    warnings: list[str]
    rounds: dict[Scenario, list[Observation]]


def bench_isolation(plan: IsolationPlan, mode: Mode) -> IsolationReport:
    """Size the loads, raise the cluster, start the processes, run the scenarios in turn, compare."""
    if mode == "loopback":
        raise ClusterError(
            "traffic classes are kept by shaped links, which mode loopback has none of; "
            "fix: run as root, or allow unprivileged user namespaces"
        )
    scaled = _scaled(plan)
    bursts = layer_bursts(find_model(plan.model), scaled, plan.hosts, plan.batch_tokens, plan.context_tokens)
    kv = KvTransfers(scaled.geometry, -(-plan.context_tokens // _BLOCK_TOKENS), plan.kv_depth)
    with open_cluster(_cluster_spec(plan, scaled), mode) as cluster:
        cluster.enter_control_namespace()
        rounds = asyncio.run(_measure(plan, cluster, {"collectives": bursts, "kv": kv}))
    link = scaled.compute_nic_bytes_per_s
    times = [wire_s(burst.bytes_to_peer, plan.hosts, link) for burst in bursts.bursts]
    return IsolationReport(
        plan=plan,
        mode=mode,
        scale=scaled.summary(),
        compute_nic_bytes_per_s=link,
        collectives=bursts,
        kv=kv,
        results=results(rounds, bursts, times),
        warnings=_warnings(rounds),
        rounds=rounds,
    )


def _warnings(rounds: Mapping[Scenario, Sequence[Observation]]) -> list[str]:
    """Where the machine and not its emulated links may have decided: who waits for a CPU looks like who waits
    for a link."""
    late = {scenario: sum(o.cpu_busy > CPU_SATURATED for o in seen) for scenario, seen in rounds.items()}
    if not any(late.values()):
        return []
    where = ", ".join(f"{late[s]} of {len(rounds[s])} rounds of {s}" for s in rounds if late[s])
    return [
        f"CPUs more than {CPU_SATURATED:.0%} busy in {where}: times include waits for one; repeat when the "
        "machine is quiet, or raise --time-dilation"
    ]


async def _measure(
    plan: IsolationPlan, cluster: Cluster, loads: dict[Load, BurstCycle | KvTransfers]
) -> dict[Scenario, list[Observation]]:
    transports = {
        host.name: TransportConfig("tcp", bind_address=host.compute_address)
        for host in cluster.hosts
        if host.role != "storage"
    }
    found: dict[Scenario, list[Observation]] = {scenario: [] for scenario in plan.scenarios}
    async with traffic(cluster, loads, transports) as processes:
        # Not recorded: the first seconds of new processes and connections are nobody's.
        await _observe(processes, "low_class", _WARM_UP_S)
        for number in range(plan.rounds):
            for scenario in _in_turn(plan.scenarios, number):
                found[scenario].append(await _observe(processes, scenario, plan.seconds))
    return found


def _in_turn(scenarios: Sequence[Scenario], number: int) -> Sequence[Scenario]:
    """A B B A: the order is reversed from round to round."""
    return scenarios if number % 2 == 0 else scenarios[::-1]


async def _observe(processes: TrafficProcesses, scenario: Scenario, seconds: float) -> Observation:
    return await processes.run(SCENARIOS[scenario], _WARM_UP_S, seconds, _COOL_DOWN_S)


def _scaled(plan: IsolationPlan) -> ScaleModel:
    """Sizes and rates as a run of an experiment on such hosts would have them."""
    prefill_hosts, decode_hosts = _roles(plan)
    experiment = sections.Experiment(
        name="isolation",
        model=plan.model,
        workload=sections.Workload(synthesize="paper-64k"),
        replay=sections.Replay(agents=1),
        cluster=sections.Cluster(
            prefill_hosts=prefill_hosts, decode_hosts=decode_hosts, profile=plan.profile
        ),
        scale=sections.Scale(bytes_divisor=plan.bytes_divisor, time_dilation=plan.time_dilation),
    )
    profile = sections.load_profile(plan.profile)
    return scale(experiment, profile, find_model(plan.model), _BLOCK_TOKENS)


def _cluster_spec(plan: IsolationPlan, scaled: ScaleModel) -> ClusterSpec:
    return ClusterSpec(*_roles(plan), scaled.storage_nic_bytes_per_s, scaled.compute_nic_bytes_per_s)


def _roles(plan: IsolationPlan) -> tuple[int, int]:
    """Prefill and decode hosts; what they do here is the same."""
    return plan.hosts // 2, plan.hosts - plan.hosts // 2
