"""What cannot run on a cluster is refused before anything is started; what would bound it is said."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert
from msgspec.structs import replace

from harness.experiment import (
    Cluster,
    Compute,
    Experiment,
    ExperimentError,
    HardwareProfile,
    Measurement,
    Replay,
    Scale,
    Variant,
    Workload,
    load_profile,
)
from harness.feasibility import bottlenecks, check_buffers, check_hbm, check_unscaled, check_weights
from harness.preparation import prepare
from harness.scale_model import ScaleModel, scale
from workloads.agents import agents_for
from workloads.layout import SessionPlan, plan_replay
from workloads.models import MODELS, Model, find_model, kv_bytes_per_token
from workloads.synthesis import synthesize

HOPPER = load_profile("hopper-400g")
MODEL = find_model("dualpath-27b")
TRACE = synthesize("paper-64k", 10, 1)
PLANS = plan_replay(agents_for(TRACE, 8, 3, "middle", 1)).sessions
LARGEST = max(turn.hit_tokens + turn.new_tokens + turn.output_tokens for plan in PLANS for turn in plan.turns)


def experiment(prefill_hosts: int = 1, decode_hosts: int = 1, layerwise: bool = True) -> Experiment:
    return Experiment(
        name="x",
        model=MODEL.name,
        workload=Workload(synthesize="paper-64k"),
        replay=Replay(agents=4),
        cluster=Cluster(prefill_hosts=prefill_hosts, decode_hosts=decode_hosts),
        scale=Scale(bytes_divisor=512, time_dilation=8),
        variants={"basic": Variant(policy="prefill_only", layerwise=layerwise)},
        measurement=Measurement(policies=("basic", "dual_path"), baseline="basic"),
    )


def scaled(of: Experiment, profile: HardwareProfile) -> ScaleModel:
    return scale(of, profile, MODEL, TRACE.block_tokens)


def gpu_memory(of: Experiment, role: str, kv_bytes: float) -> HardwareProfile:
    """GPUs on which an engine of that role has ``kv_bytes`` left for KV."""
    weights = scaled(of, HOPPER).engines["prefill" if role == "prefill" else "decode"].weight_bytes
    return HOPPER.replaced({"gpu_memory": (weights + kv_bytes) / HOPPER.gpu_memory_share.value / 1e9})


def hbm(of: Experiment, profile: HardwareProfile, plans: Sequence[SessionPlan] = PLANS) -> None:
    check_hbm(of, scaled(of, profile), MODEL, plans)


@pytest.mark.parametrize(
    ("name", "gpu_memory", "fix"),
    [
        ("qwen2.5-32b", 60, "set cluster.replace.gpu_memory"),
        ("deepseek-v3.2-660b", 80, "use more hosts or set cluster.replace.gpu_memory"),
    ],
)
def test_weights_that_do_not_fit_an_engine_are_refused(name: str, gpu_memory: float, fix: str) -> None:
    model = find_model(name)
    profile = HOPPER.replaced({"gpu_memory": gpu_memory})
    weight_gb = model.weight_bytes / (8 if model.expert_parallel else 1) / 1e9
    with pytest.raises(ExperimentError) as error:
        check_weights(profile, scale(experiment(), profile, model, 64), model)
    assert str(error.value) == (
        f"profile figure gpu_memory: found {gpu_memory} GB x 0.9, but an engine holds {weight_gb:.1f} GB of "
        f"{name}'s weights; expected more than {math.ceil(weight_gb / 0.9)} GB: {fix}"
    )


@pytest.mark.parametrize("model", [model for model in MODELS.values() if model.weight_bytes > 1e9])
def test_more_memory_than_the_refusal_asks_for_is_enough(model: Model) -> None:
    refused = HOPPER.replaced({"gpu_memory": 1})
    with pytest.raises(ExperimentError) as error:
        check_weights(refused, scale(experiment(), refused, model, 64), model)
    [asked_gb] = re.findall(r"expected more than (\d+) GB", str(error.value))
    enough = HOPPER.replaced({"gpu_memory": int(asked_gb) + 0.01})
    check_weights(enough, scale(experiment(), enough, model, 64), model)


@pytest.mark.parametrize("layerwise", [True, False])
def test_a_request_has_to_fit_a_decode_engine(layerwise: bool) -> None:
    needed = LARGEST * kv_bytes_per_token(MODEL)
    of = experiment(prefill_hosts=4, layerwise=layerwise)
    hbm(of, gpu_memory(of, "decode", needed * 1.001))
    with pytest.raises(ExperimentError) as error:
        hbm(of, gpu_memory(of, "decode", needed / 2))
    assert str(error.value) == (
        f"profile figure gpu_memory: found {needed / 2e9:.1f} GB left for KV on a decode engine, but the "
        f"largest request needs {needed / 1e9:.1f} GB there; expected more: set cluster.replace.gpu_memory, "
        "or replay shorter contexts"
    )


def test_without_layerwise_prefill_a_prompt_has_to_fit_a_prefill_engine_too() -> None:
    """More decode hosts share the weights: there it fits."""
    layerwise, whole = (experiment(decode_hosts=4, layerwise=each) for each in (True, False))
    profile = gpu_memory(layerwise, "prefill", LARGEST * kv_bytes_per_token(MODEL) / 4)
    hbm(layerwise, profile)
    with pytest.raises(ExperimentError, match=r"GB left for KV on a prefill engine, but the largest request"):
        hbm(whole, profile)


def test_layerwise_prefill_still_needs_the_layers_that_are_resident() -> None:
    of = experiment(decode_hosts=4)
    prompt = max(turn.hit_tokens + turn.new_tokens for plan in PLANS for turn in plan.turns)
    two_layers = 2 * prompt * MODEL.layer_kv_bytes_per_token
    hbm(of, gpu_memory(of, "prefill", two_layers * 1.001))
    with pytest.raises(ExperimentError, match="on a prefill engine"):
        hbm(of, gpu_memory(of, "prefill", two_layers * 0.999))


def test_the_largest_request_decides_wherever_it_is() -> None:
    of = experiment(prefill_hosts=4)
    profile = gpu_memory(of, "decode", (LARGEST - 1) * kv_bytes_per_token(MODEL))
    refused = 0
    for plan in PLANS:
        try:
            hbm(of, profile, [plan])
        except ExperimentError:
            refused += 1
    assert refused == 1


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (
            {"time_dilation": 8},
            "scale.time_dilation: found 8 beside compute.kind = 'torch', expected 1: kernels",
        ),
        ({"layers_divisor": 6}, "scale.layers_divisor: found 6 beside compute.kind = 'torch', expected 1: "),
        (
            {"bytes_divisor": 0.5},
            "scale.bytes_divisor: found 0.5 beside compute.kind = 'torch', expected at ",
        ),
    ],
)
def test_what_kernels_do_is_not_scaled(factors: dict[str, float], expected: str) -> None:
    factors = {"bytes_divisor": 512, "time_dilation": 1, **factors}
    timed = replace(experiment(), scale=convert(factors, Scale))
    check_unscaled(timed)
    check_unscaled(
        replace(experiment(), compute=Compute(kind="torch"), scale=Scale(bytes_divisor=512, time_dilation=1))
    )
    with pytest.raises(ExperimentError, match=re.escape(expected)):
        prepare(replace(timed, compute=Compute(kind="torch")))


@given(plan=st.sampled_from(PLANS), share=st.floats(0.01, 3))
def test_a_prompt_has_to_fit_a_hosts_buffer(plan: SessionPlan, share: float) -> None:
    of, block_tokens = experiment(), TRACE.block_tokens
    blocks = max(-(-turn.input_tokens // block_tokens) for turn in plan.turns)
    needed_gb = blocks * block_tokens * kv_bytes_per_token(MODEL) / 1e9
    small = scaled(of, HOPPER.replaced({"decode_buffer": needed_gb * share}))
    if small.buffer_bytes["decode"] >= blocks * small.geometry.full_block_bytes:
        assert share > 0.999
        check_buffers(small, [plan])
        return
    assert share < 1.001
    with pytest.raises(ExperimentError) as error:
        check_buffers(small, [plan])
    message = str(error.value)
    said = re.fullmatch(
        r"profile figure decode_buffer: found (\S+) GB a host, but the largest prompt has (\d+) blocks; "
        r"expected at least (\S+) GB: set cluster\.replace\.decode_buffer",
        message,
    )
    assert said is not None
    assert float(said[1]) == pytest.approx(needed_gb * share, rel=0.01)
    assert int(said[2]) == blocks
    asked_gb = said[3]
    check_buffers(scaled(of, HOPPER.replaced({"decode_buffer": float(asked_gb)})), [plan])


@pytest.mark.parametrize(
    ("prefill_hosts", "decode_hosts", "expected"),
    [
        (1, 1, []),
        (1, 7, []),
        (7, 2, []),
        (1, 8, ["P/D = 0.125 is below s/(g - s) = 0.143: prefill compute NICs would be write-bound by 1.1x"]),
        (
            14,
            2,
            [
                "P/D = 7 is above (g - 2s)/s = 6: decode compute NICs would be read-bound by 1.1x",
                "P/D = 7 is above (g - s)/(2s) = 3.5: decode compute NICs would be write-bound by 1.9x",
                "P/D = 7 is above (M/(Bs) - 3)/2 = 3.5: decode hosts would be memory-bound by 1.7x",
            ],
        ),
    ],
)
def test_a_cluster_outside_the_papers_range_is_warned_about(
    prefill_hosts: int, decode_hosts: int, expected: list[str]
) -> None:
    warnings = bottlenecks(experiment(prefill_hosts, decode_hosts), HOPPER)
    assert warnings == [f"{line}; use a P/D between 0.143 and 3.5" for line in expected]


def test_the_figures_in_force_are_the_ones_that_are_judged() -> None:
    slow_memory = HOPPER.replaced({"host_memory_bandwidth": 200})
    [warning] = bottlenecks(experiment(), slow_memory)
    assert "P/D = 1 is above (M/(Bs) - 3)/2 = 0.5: decode hosts would be memory-bound by 1.2x" in warning
    faster_storage = HOPPER.replaced({"storage_nic": 800, "host_memory_bandwidth": 1000})
    [warning] = bottlenecks(experiment(2, 1), faster_storage)
    assert "P/D = 2 is above (g - s)/(2s) = 1.5" in warning
