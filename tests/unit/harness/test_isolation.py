"""Traffic isolation: the sizes of the bursts, what the observations say, the order of the scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.bench.bursts import layer_bursts
from harness.bench.cli import bench
from harness.bench.isolation import _in_turn, _warnings, bench_isolation
from harness.bench.isolation_grounds import EmulatedHosts, RackHosts
from harness.bench.isolation_metrics import (
    SCENARIOS,
    Scenario,
    isolation_leakage,
    jain_fairness,
    percentile,
    results,
    share_of_remaining,
)
from harness.bench.isolation_plan import IsolationPlan
from harness.bench.traffic import Observation
from harness.cluster import ClusterError
from harness.experiment import ExperimentError
from harness.inventory import ComputeNic, Inventory, InventoryHost, SshLauncher, load_inventory
from hosts.bench.load import Observed
from hosts.bench.phases import Burst, BurstCycle, BurstTime, CollectivesObserved, KvObserved
from workloads.models import find_model

PLAN = IsolationPlan(
    scenarios=tuple(SCENARIOS),
    rounds=2,
    seconds=1.0,
    hosts=4,
    model="deepseek-v3.2-660b",
    profile="hopper-400g",
    bytes_divisor=230,
    time_dilation=280,
    batch_tokens=1024,
    context_tokens=32_721,
    kv_depth=2,
)

EMULATED = EmulatedHosts("network_namespaces")
RACK_FILE = Path(__file__).parents[3] / "examples" / "rack.toml"


def bursts(plan: IsolationPlan) -> dict[str, Burst]:
    cycle = layer_bursts(
        find_model(plan.model), EMULATED.scaled(plan), plan.hosts, plan.batch_tokens, plan.context_tokens
    )
    return {burst.collective: burst for burst in cycle.bursts}


def test_sizes_follow_from_the_models_geometry() -> None:
    found, divisor = bursts(PLAN), EMULATED.scaled(PLAN).bytes_divisor
    activations = 8 * 1024 * 7168  # engines x tokens x hidden
    assert found["reduce_scatter"].bytes_to_peer == round(activations * 2 / 4 / divisor)
    assert found["all_gather"] == msgspec.structs.replace(found["reduce_scatter"], collective="all_gather")
    reached = 1 - 0.75**8  # one of 8 experts on one of 4 hosts
    assert found["dispatch"].bytes_to_peer == round(activations * reached / divisor)
    assert found["combine"].bytes_to_peer == round(activations * reached * 2 / divisor)


def test_bursts_are_shorter_than_a_millisecond_of_the_real_link_as_the_paper_has_them() -> None:
    link = EMULATED.scaled(PLAN).compute_nic_bytes_per_s
    for burst in bursts(PLAN).values():
        assert 3 * burst.bytes_to_peer / link / PLAN.time_dilation < 1e-3


def test_the_period_is_the_wire_time_and_a_quarter_of_the_layers_compute() -> None:
    scaled, found = EMULATED.scaled(PLAN), bursts(PLAN)
    model = find_model(PLAN.model)
    flops = model.attention_flops(32_721, 1024) + model.mlp_flops(1024) + model.head_flops
    layer_s = flops / scaled.engines["prefill"].gpu_flops / model.layers * PLAN.time_dilation
    for burst in found.values():
        wire_s = 3 * burst.bytes_to_peer / scaled.compute_nic_bytes_per_s
        assert burst.period_s - wire_s == pytest.approx(layer_s / 4)


def test_dilation_stretches_periods_and_leaves_bytes() -> None:
    slower = bursts(msgspec.structs.replace(PLAN, time_dilation=560))
    for name, burst in bursts(PLAN).items():
        assert slower[name].bytes_to_peer == burst.bytes_to_peer
        assert slower[name].period_s == pytest.approx(2 * burst.period_s)


def nic(gbit_per_s: float | None = None) -> tuple[ComputeNic, ...]:
    return (ComputeNic("eth2", gbit_per_s=gbit_per_s), ComputeNic("eth3"))


def rack(scale: Literal["real", "experiment"] = "real", gbit_per_s: float | None = None) -> RackHosts:
    """Two prefill and two decode hosts of eight engines, and one that writes what is stored."""
    roles = {"p0": "prefill", "p1": "prefill", "d0": "decode", "d1": "decode"}
    serving = [InventoryHost(name, role, compute_nics=nic(gbit_per_s)) for name, role in roles.items()]  # type: ignore[arg-type]
    hosts = (InventoryHost("s0", "storage"), *serving)
    return RackHosts(Inventory(hosts, SshLauncher(), name="r", scale=scale), lambda line: None)


REAL = msgspec.structs.replace(PLAN, bytes_divisor=1, time_dilation=1)


def test_a_real_nic_carries_one_engines_bursts_in_the_time_that_all_nics_carry_the_hosts() -> None:
    scaled = rack().scaled(REAL)
    assert scaled.compute_nic_bytes_per_s == 50e9
    assert rack(gbit_per_s=200).scaled(REAL).compute_nic_bytes_per_s == 25e9
    model, both = find_model(REAL.model), (scaled, EMULATED.scaled(REAL))
    one, all_ = (layer_bursts(model, scale, 4, 1024, 32_721).bursts for scale in both)
    for part, whole in zip(one, all_, strict=True):
        assert part.bytes_to_peer == pytest.approx(whole.bytes_to_peer / 8, abs=1)
        assert part.period_s == pytest.approx(whole.period_s, rel=1e-6)


def test_links_made_for_a_scale_carry_what_emulated_ones_do() -> None:
    assert rack("experiment").scaled(PLAN) == EMULATED.scaled(PLAN)


def test_two_hosts_are_enough_though_they_could_not_hold_the_models_weights() -> None:
    assert find_model(PLAN.model).weight_bytes / 8 > 80e9
    two = msgspec.structs.replace(PLAN, hosts=2)
    assert EMULATED.scaled(two).geometry == EMULATED.scaled(PLAN).geometry
    shipped = RackHosts(load_inventory(RACK_FILE), lambda line: None)
    assert shipped.scaled(REAL).compute_nic_bytes_per_s == 50e9


def test_real_links_cannot_be_scaled_down() -> None:
    with pytest.raises(ExperimentError, match="found 230, 280, expected 1, 1: the links of inventory r are"):
        rack().scaled(PLAN)


def test_an_inventory_says_how_many_hosts_there_are() -> None:
    done = CliRunner().invoke(bench, ["isolation", "--inventory", str(RACK_FILE), "--hosts", "4"])
    assert isinstance(done.exception, ExperimentError)
    assert "with --inventory all its prefill and decode hosts are used" in str(done.exception)


def test_a_model_without_experts_has_no_all_to_all() -> None:
    assert list(bursts(msgspec.structs.replace(PLAN, model="qwen2.5-32b"))) == [
        "reduce_scatter",
        "all_gather",
    ]


def test_jain_fairness() -> None:
    assert jain_fairness([3.0, 3.0, 3.0]) == 1
    assert jain_fairness([5.0, 0.0]) == 0.5
    assert jain_fairness([0.0, 0.0]) is None
    assert jain_fairness([]) is None


@given(st.lists(st.floats(min_value=0.01, max_value=1e9), min_size=1, max_size=8))
def test_jain_fairness_is_between_one_nth_and_one(values: list[float]) -> None:
    fairness = jain_fairness(values)
    assert fairness is not None
    assert 1 / len(values) - 1e-9 <= fairness <= 1 + 1e-9


def test_isolation_leakage_is_a_loss_never_a_gain_and_none_without_a_baseline() -> None:
    assert isolation_leakage(75.0, 100.0) == 0.25
    assert isolation_leakage(120.0, 100.0) == 0.0
    assert isolation_leakage(0.0, 100.0) == 1.0
    assert isolation_leakage(None, 100.0) is None
    assert isolation_leakage(75.0, None) is None
    assert isolation_leakage(75.0, 0.0) is None


def test_share_of_the_remaining_bandwidth() -> None:
    assert share_of_remaining(54.0, 100.0, 40.0) == pytest.approx(0.9)
    assert share_of_remaining(100.0, 100.0, 0.0) == 1
    assert share_of_remaining(54.0, None, 40.0) is None
    assert share_of_remaining(1.0, 100.0, 100.0) is None


def test_percentiles_only_of_samples_that_hold_them() -> None:
    assert percentile([1.0], 50) == 1.0
    assert percentile([1.0] * 99, 99) is None
    assert percentile([1.0] * 100, 99) == 1.0
    assert percentile([], 50) is None


CYCLE = BurstCycle((Burst("dispatch", 100, 1.0), Burst("combine", 200, 1.0)))
WIRE_S = (0.1, 0.2)


def observation(stretch: float | None, kv_bytes: int | None, cpu_busy: float = 0.5) -> Observation:
    """Two hosts for 2 s: 50 bursts of each kind that took ``stretch`` times their wire time."""
    hosts = ("d0", "p0")
    times = [BurstTime(p, WIRE_S[p] * stretch) for p in (0, 1) for _ in range(50)] if stretch else []
    return Observation(
        {host: CollectivesObserved(times, 4000, 2.0) for host in hosts} if stretch else {},
        {host: KvObserved(Observed(2.0, 1, kv_bytes, 0.1, 0.1, 0.0)) for host in hosts} if kv_bytes else {},
        cpu_busy,
    )


def test_everything_is_compared_with_itself_alone() -> None:
    alone, kv, same, low = results(
        {
            "collectives": [observation(1.25, None)],
            "kv": [observation(None, 10_000)],
            "same_class": [observation(5.0, 8000)],
            "low_class": [observation(1.5, 5700), observation(1.5, 5700)],
        },
        CYCLE,
        WIRE_S,
    )
    assert [b.collective for b in alone.bursts] == ["all", "dispatch", "combine"]
    everything, dispatch, combine = alone.bursts
    assert (everything.bursts, dispatch.bursts) == (200, 100)
    assert everything.p50 == pytest.approx(1.25)  # stretch; the others in seconds
    assert dispatch.p99 == pytest.approx(0.125)
    assert combine.p50 == pytest.approx(0.25)
    assert (everything.slow_down_p50, everything.slow_down_p99) == (1, 1)
    assert same.bursts[0].slow_down_p99 == pytest.approx(4.0)
    assert low.bursts[2].slow_down_p50 == pytest.approx(1.2)
    assert low.bursts[0].bursts == 400  # both rounds

    assert alone.collectives_bytes_per_s == 4000  # both hosts
    assert kv.kv_bytes_per_s == 10_000
    assert kv.utilization == 1
    assert low.kv_of_remaining == pytest.approx(0.95)  # of 10,000 - 4000
    assert low.isolation_leakage == {"collectives": 0.0, "kv": pytest.approx(0.43)}
    assert same.jain_fairness == pytest.approx(12_000**2 / (2 * (4000**2 + 8000**2)))
    assert low.utilization == pytest.approx(0.97)
    assert low.cpu_busy == 0.5


def test_what_lacks_a_baseline_or_a_second_class_is_none() -> None:
    (low,) = results({"low_class": [observation(1.5, 5700)]}, CYCLE, WIRE_S)
    assert low.bursts[0].p99 == pytest.approx(1.5)
    assert low.bursts[0].slow_down_p99 is None
    assert low.kv_of_remaining is None
    assert low.isolation_leakage == {"collectives": None, "kv": None}
    (alone,) = results({"collectives": [observation(1.5, None)]}, CYCLE, WIRE_S)
    assert alone.jain_fairness is None
    assert alone.kv_bytes_per_s is None
    assert alone.utilization is None


def test_the_order_is_reversed_from_round_to_round() -> None:
    assert [_in_turn(("kv", "low_class"), number) for number in range(3)] == [
        ("kv", "low_class"),
        ("low_class", "kv"),
        ("kv", "low_class"),
    ]


def test_loopback_has_no_traffic_classes() -> None:
    with pytest.raises(ClusterError, match="loopback"):
        bench_isolation(PLAN, EmulatedHosts("loopback"))


def test_a_saturated_machine_is_said() -> None:
    rounds: dict[Scenario, list[Observation]] = {
        "kv": [observation(None, 1, cpu_busy=0.5), observation(None, 1, cpu_busy=0.95)],
        "low_class": [observation(1.0, 1, cpu_busy=0.9)],
    }
    (warning,) = _warnings(rounds)
    assert "90% busy in 1 of 2 rounds of kv:" in warning
    assert _warnings({"low_class": rounds["low_class"]}) == []
