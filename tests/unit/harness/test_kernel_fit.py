"""Fits of kernel times: what was planted is found, what is predicted is consistent, a profile keeps it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.calibration.compute import REFERENCE_NEW, ComputePlan, calibrate_compute
from harness.calibration.kernel_fit import attention_s, fit_attention, residuals, token_times
from harness.calibration.kernels_table import kernels_remarks
from harness.experiment import (
    Cluster,
    Experiment,
    ExperimentError,
    Replay,
    Scale,
    Workload,
    load_profile,
    to_toml,
)
from harness.scale_model import scale
from hosts.bench.kernels import AttentionPoint, Kernels, Measured
from hosts.compute import Piece, prediction_of
from hosts.kernel_times import AttentionTimes, TokenTimes, features
from workloads.models import MODELS, find_model, prefill_flops

POINTS = [
    AttentionPoint(0, cached, new, requests)
    for cached in (0, 1000, 5000, 30_000)
    for new in (16, 100, 700)
    for requests in (1, 3)
]
seconds = st.floats(1e-7, 1e-3)
RATE = 1e12


def planted(*coefficients: float) -> AttentionTimes:
    layer_s, request_s, token_s, key_s, index_s, score_s = coefficients
    return AttentionTimes(3, layer_s, request_s, token_s / 1e3, key_s / 1e4, index_s / 1e9, score_s / 1e9)


@given(st.tuples(*[seconds] * 6), st.sampled_from(["dualpath-27b", "qwen2.5-32b", "gpt-oss-120b"]))
def test_what_was_planted_is_predicted_anywhere(coefficients: tuple[float, ...], name: str) -> None:
    kind, times = find_model(name).attention[-1][1], planted(*coefficients)
    found = fit_attention(kind, 3, POINTS, [attention_s(times, kind, point) for point in POINTS])
    elsewhere = AttentionPoint(0, 12_345, 321, 2)
    assert attention_s(found, kind, elsewhere) == pytest.approx(attention_s(times, kind, elsewhere), rel=1e-3)
    assert min(msgspec.structs.astuple(found)) >= 0


@given(
    st.lists(
        st.tuples(st.integers(1, 10_000), st.floats(1e-6, 1)),
        min_size=1,
        max_size=12,
        unique_by=lambda p: p[0],
    )
)
def test_more_tokens_never_take_less_and_none_take_nothing(pairs: list[tuple[int, float]]) -> None:
    times = token_times(2, [tokens for tokens, _ in pairs], [taken for _, taken in pairs])
    assert times.of(0) == 0
    asked = np.linspace(1, 20_000, 200)
    taken = [times.of(tokens) for tokens in asked]
    assert (np.diff(taken) >= -1e-12).all()
    assert times.of(times.tokens[-1] * 2) == pytest.approx(2 * times.seconds[-1])


def test_residuals_are_relative() -> None:
    found = residuals([1.1, 2.0, 5.0], [1.0, 2.0, 4.0])
    assert (found.points, found.median) == (3, pytest.approx(0.1))
    assert found.largest == pytest.approx(0.25)


@pytest.mark.parametrize("name", MODELS)
def test_features_are_the_geometry_s_flops(name: str) -> None:
    for _, kind in find_model(name).attention:
        one, new, keys, index_flops, score_flops = features(kind, 3000, 100)
        assert (one, new, keys) == (1, 100, 3100)
        assert index_flops + score_flops == kind.score_flops(3000, 100)


def at_a_rate(kernels: Kernels) -> Measured:
    """A device that computes everything at one rate, and nothing else takes time."""
    model = find_model(kernels.model)
    attention = []
    for point in kernels.attention:
        kind = model.attention[point.kind][1]
        flops = 2 * kind.parameters(model.hidden) * point.new_tokens
        attention.append(point.requests * (flops + kind.score_flops(point.cached_tokens, point.new_tokens)))
    moe_layers = model.layers - model.dense_layers
    dense = 2 * 3 * model.hidden * model.dense_intermediate
    of_part = {
        "dense": dense,
        "experts": (model.mlp_flops(1) - model.dense_layers * dense) / max(1, moe_layers),
        "head": model.head_flops,
    }
    tokens = [of_part[point.part] * point.tokens for point in kernels.tokens]
    return Measured(
        "a test's", "none", RATE, tuple(x / RATE for x in attention), tuple(x / RATE for x in tokens)
    )


def plan(name: str, engines: int = 2) -> ComputePlan:
    return ComputePlan(
        model=find_model(name),
        device="cpu",
        gpu="",
        expert_engines=engines,
        longest_context=65_536,
        most_tokens=4096,
        seconds=0.1,
        rounds=1,
        command="dualpath calibrate compute",
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_device_of_one_rate_is_predicted_as_flops_over_it(name: str, tmp_path: Path) -> None:
    model = find_model(name)
    calibrated = calibrate_compute(plan(name), load_profile("hopper-400g"), at_a_rate)
    file = tmp_path / "new.toml"
    file.write_text(to_toml(calibrated))
    assert load_profile(str(file)) == calibrated
    kernels = calibrated.kernels[name]
    assert kernels.held_out.largest < 0.01
    assert kernels.prefill_tflop_per_s * 1e12 == pytest.approx(RATE, rel=0.01)
    assert [line for line in kernels_remarks(kernels) if line.startswith("warning")] == []
    by_flops = scale(experiment(name), load_profile("hopper-400g").replaced({"gpu_memory": 2000}), model, 64)
    config = msgspec.structs.replace(by_flops.engines["prefill"], kernels=kernels.times)
    prediction = prediction_of(config)
    expected_s = prefill_flops(model, 20_000, REFERENCE_NEW) / RATE
    assert prediction.forward_s([[Piece(20_000, REFERENCE_NEW)]]) == pytest.approx(expected_s, rel=0.02)
    assert prediction.prompt_s(20_000, REFERENCE_NEW) == pytest.approx(expected_s, rel=0.02)
    assert prediction.decode_step_s([[20_000] * 8]) == pytest.approx(
        8 * model.decode_flops(20_000) / RATE, rel=0.02
    )


def experiment(model: str, profile: str = "hopper-400g", hosts: int = 1) -> Experiment:
    return Experiment(
        name="x",
        model=model,
        workload=Workload(synthesize="paper-64k"),
        replay=Replay(agents=1),
        cluster=Cluster(prefill_hosts=hosts, decode_hosts=hosts, profile=profile),
        scale=Scale(bytes_divisor=64, time_dilation=8),
    )


def test_kernels_of_other_shares_of_the_experts_are_refused() -> None:
    calibrated = calibrate_compute(plan("dualpath-27b", engines=8), load_profile("hopper-400g"), at_a_rate)
    model = find_model("dualpath-27b")
    assert scale(experiment(model.name), calibrated, model, 64).engines["decode"].kernels is not None
    with pytest.raises(ExperimentError, match=r"over 8 engines, but this experiment has 16 .*--engines 16"):
        scale(experiment(model.name, hosts=2), calibrated, model, 64)
    dense = find_model("qwen2.5-32b")
    assert scale(experiment(dense.name), calibrated, dense, 64).engines["decode"].kernels is None


def test_a_fit_that_predicts_badly_is_said() -> None:
    def noisy(kernels: Kernels) -> Measured:
        found = at_a_rate(kernels)
        chance = np.random.default_rng(4)
        attention = tuple(
            s * f for s, f in zip(found.attention_s, chance.uniform(0.5, 2, 10_000), strict=False)
        )
        return msgspec.structs.replace(found, attention_s=attention)

    kernels = calibrate_compute(plan("toy-latent"), load_profile("hopper-400g"), noisy).kernels["toy-latent"]
    [warning] = [line for line in kernels_remarks(kernels) if line.startswith("warning")]
    assert "held-out points are predicted up to" in warning


def test_token_times_between_points() -> None:
    times = TokenTimes(1, (1, 10), (1.0, 10.0))
    assert (times.of(0.5), times.of(4), times.of(20)) == (1.0, 4.0, 20.0)
