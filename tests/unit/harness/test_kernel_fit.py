"""Fits of kernel times: what was planted is found, what is predicted is consistent, a profile keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.calibration.compute import calibrate_compute
from harness.calibration.kernel_fit import (
    batch,
    device_work,
    fit_attention,
    predicted,
    residuals,
    token_times,
)
from harness.calibration.kernel_points import REFERENCE_NEW, ComputePlan, Points
from harness.calibration.kernels_table import kernels_remarks
from harness.circumstances import circumstances
from harness.experiment import (
    Cluster,
    Experiment,
    ExperimentError,
    KernelProfile,
    Replay,
    Scale,
    Workload,
    load_profile,
    to_toml,
)
from harness.preparation import prepare
from harness.scale_model import scale
from hosts.bench.kernels import AttentionPoint, Kernels, Measured, PointTimes
from hosts.compute import Piece, prediction_of
from hosts.kernel_times import AttentionTimes, TokenTimes, Work, seconds
from hosts.kernel_work import AskingWork, DecodeWork, PrefillWork, asking_work, decode_work, prefill_work
from workloads.models import MODELS, Attention, find_model, prefill_flops

POINTS = [
    AttentionPoint(0, cached, new, requests)
    for cached in (0, 60, 1000, 5000, 30_000)
    for new in (1, 16, 100, 200, 400, 700, 1000)
    for requests in (1, 3)
]
RATE = 1e12
some_seconds = st.floats(1e-7, 1e-3)
names = st.sampled_from(["dualpath-27b", "deepseek-v3-660b", "qwen2.5-32b", "gpt-oss-120b"])


@st.composite
def planted(draw: st.DrawFn) -> AttentionTimes:
    """Each count's part of a time is of the same order at a point of some thousand keys."""

    def work(of: type[Work], orders: tuple[float, ...]) -> Any:
        return of(*(draw(some_seconds) / order for order in orders))

    return AttentionTimes(
        3,
        work(PrefillWork, (1, 1e2, 1e2, 1e2, 1e2, 1, 1e3, 1e5, 1e5, 1e4)),
        work(DecodeWork, (1, 1, 1e3, 1e3)),
        work(AskingWork, (1, 1, 1)),
    )


@given(planted(), names)
def test_what_was_planted_is_predicted_anywhere(times: AttentionTimes, name: str) -> None:
    kind = find_model(name).attention[-1][1]
    found = fit_attention(kind, 3, {point: predicted(times, kind, point) for point in POINTS})
    for elsewhere in (AttentionPoint(0, 12_345, 321, 2), AttentionPoint(0, 12_345, 1, 2)):
        expected, there = predicted(times, kind, elsewhere), predicted(found, kind, elsewhere)
        assert there.device_s == pytest.approx(expected.device_s, rel=1e-3)
        assert there.asking_s == pytest.approx(expected.asking_s, rel=1e-3)
    for work in (found.prefill, found.decode, found.asking):
        assert min(msgspec.structs.astuple(work)) >= 0


@given(planted(), names, st.integers(0, 60_000), st.integers(1, 4000), st.integers(1, 500))
def test_more_to_attend_to_never_takes_less(
    times: AttentionTimes, name: str, cached: int, new: int, more: int
) -> None:
    kind = find_model(name).attention[-1][1]

    def taken(*batch: tuple[int, int]) -> float:
        return seconds(times.prefill, prefill_work(kind, batch))

    least = taken((cached, new))
    assert taken((cached, new), (cached, more)) >= least
    assert taken((cached, new + more)) >= least
    assert taken((cached + more, new)) >= least
    step = seconds(times.decode, decode_work(kind, [cached]))
    assert seconds(times.decode, decode_work(kind, [cached + more])) >= step
    assert seconds(times.decode, decode_work(kind, [cached, cached])) >= step


@pytest.mark.parametrize("name", MODELS)
def test_no_two_coefficients_can_stand_for_each_other(name: str) -> None:
    """What is measured tells all counts apart that a kind of attention has."""
    points = Points.of(plan(name))
    for number, (_, kind) in enumerate(find_model(name).attention):
        prefill, decode = ([p for p in of if p.kind == number] for of in (points.prefill, points.decode))
        works = [[device_work(kind, p) for p in prefill], [device_work(kind, p) for p in decode]]
        works.append([asking_work(kind, batch(p)) for p in (*prefill, *decode)])
        for of in works:
            rows = np.array([msgspec.structs.astuple(work) for work in of], dtype=float)
            rows = rows[:, rows.any(axis=0)]
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            rows /= np.linalg.norm(rows, axis=0)
            assert np.linalg.matrix_rank(rows, tol=1e-4) == rows.shape[1]


@pytest.mark.parametrize("name", MODELS)
def test_held_out_points_are_inside_the_grid_the_small_ones_too(name: str) -> None:
    points = Points.of(plan(name))
    for held_out, grid in (
        ([p for p in points.held_out if p.new_tokens > 1], points.prefill),
        ([p for p in points.held_out if p.new_tokens == 1], points.decode),
    ):
        for size in ("cached_tokens", "new_tokens", "requests"):
            found, measured = ([getattr(p, size) for p in of] for of in (held_out, grid))
            assert min(measured) <= min(found) <= max(found) <= max(measured)
        assert min(p.cached_tokens for p in held_out) < 1024
        assert not set(held_out) & set(grid)


@pytest.mark.parametrize("name", ["dualpath-27b", "gpt-oss-120b"])
def test_contexts_at_which_attention_saturates_are_measured(name: str) -> None:
    points = Points.of(plan(name))
    saturates = {"dualpath-27b": 1024, "gpt-oss-120b": 128}[name]
    kind = len(find_model(name).attention) - 1
    contexts = {p.cached_tokens for p in points.decode if p.kind == kind}
    assert {64, 256, saturates, 65_536} <= contexts


@given(
    st.lists(
        st.tuples(st.integers(1, 10_000), st.floats(1e-6, 1)),
        min_size=1,
        max_size=12,
        unique_by=lambda p: p[0],
    )
)
def test_more_tokens_never_take_less_and_none_take_nothing(pairs: list[tuple[int, float]]) -> None:
    times = token_times(2, [tokens for tokens, _ in pairs], [taken for _, taken in pairs], [0.0, 2.0, 3.0])
    assert times.of(0) == 0
    assert times.asking_s == 2.0
    asked = np.linspace(1, 20_000, 200)
    taken = [times.of(tokens) for tokens in asked]
    assert (np.diff(taken) >= -1e-12).all()
    assert times.of(times.tokens[-1] * 2) == pytest.approx(2 * times.seconds[-1])


def test_residuals_are_relative() -> None:
    found = residuals([1.1, 2.0, 5.0], [1.0, 2.0, 4.0])
    assert (found.points, found.median) == (3, pytest.approx(0.1))
    assert found.largest == pytest.approx(0.25)


ASKING_S = 1e-9


def at_a_rate(kernels: Kernels) -> Measured:
    """A device that computes everything at one rate, and nothing else takes time; asking takes ASKING_S for
    each layer, request and part of rows."""
    model = find_model(kernels.model)
    attention = []
    for point in kernels.attention:
        kind = model.attention[point.kind][1]
        work = device_work(kind, point)
        flops = 2 * kind.parameters(model.hidden) * point.new_tokens * point.requests
        flops += work.score * kind_flops(kind) + work.index_score * (kind.index_flops(0, 1))
        asked = sum(msgspec.structs.astuple(asking_work(kind, batch(point))))
        attention.append(PointTimes(flops / RATE, ASKING_S * asked))
    moe_layers = model.layers - model.dense_layers
    dense = 2 * 3 * model.hidden * model.dense_intermediate
    of_part = {
        "dense": dense,
        "experts": (model.mlp_flops(1) - model.dense_layers * dense) / max(1, moe_layers),
        "head": model.head_flops,
    }
    tokens = [PointTimes(of_part[point.part] * point.tokens / RATE, ASKING_S) for point in kernels.tokens]
    return Measured("a test's", "none", RATE, tuple(attention), tuple(tokens))


def kind_flops(kind: Attention) -> int:
    """Of attention's scores and values, one key for one token."""
    return kind.score_flops(0, 1) - kind.index_flops(0, 1)


def plan(name: str, *engines: int) -> ComputePlan:
    model = find_model(name)
    return ComputePlan(
        model=model,
        device="cpu",
        gpu="",
        expert_engines=engines or ((2,) if model.expert_parallel else (1,)),
        longest_context=65_536,
        most_tokens=4096,
        seconds=0.1,
        rounds=1,
        command="dualpath calibrate compute",
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_device_of_one_rate_is_predicted_as_flops_over_it(name: str, tmp_path: Path) -> None:
    model = find_model(name)
    [kernels] = calibrate_compute(plan(name), at_a_rate)
    calibrated = load_profile("hopper-400g").with_kernels(model, [kernels])
    file = tmp_path / "new.toml"
    file.write_text(to_toml(calibrated))
    assert load_profile(str(file)) == calibrated
    assert kernels.held_out.largest < 0.01
    assert kernels.held_out_again.largest == 0
    assert kernels.held_out_asking is not None
    assert kernels.held_out_asking.largest < 0.01
    assert kernels.prefill_tflop_per_s * 1e12 == pytest.approx(RATE, rel=0.01)
    assert [line for line in kernels_remarks([kernels]) if line.startswith("warning")] == []
    by_flops = scale(experiment(name), load_profile("hopper-400g").replaced({"gpu_memory": 2000}), model, 64)
    config = msgspec.structs.replace(by_flops.engines["prefill"], kernels=kernels.times)
    prediction = prediction_of(config)
    expected_s = prefill_flops(model, 20_000, REFERENCE_NEW) / RATE
    assert prediction.forward_s([[Piece(20_000, REFERENCE_NEW)]]) == pytest.approx(expected_s, rel=0.02)
    assert prediction.prompt_s(20_000, REFERENCE_NEW) == pytest.approx(expected_s, rel=0.02)
    assert prediction.decode_step_s([[20_000] * 8]) == pytest.approx(
        8 * model.decode_flops(20_000) / RATE, rel=0.02
    )


def experiment(
    model: str, profile: str = "hopper-400g", prefill_hosts: int = 1, decode_hosts: int = 1
) -> Experiment:
    return Experiment(
        name="x",
        model=model,
        workload=Workload(synthesize="paper-64k", synthesized_sessions=20),
        replay=Replay(agents=1),
        cluster=Cluster(prefill_hosts=prefill_hosts, decode_hosts=decode_hosts, profile=profile),
        scale=Scale(bytes_divisor=64, time_dilation=8),
    )


def test_roles_with_different_numbers_of_engines_have_kernels_of_their_own() -> None:
    model, hopper = find_model("dualpath-27b"), load_profile("hopper-400g")
    eight, sixteen = calibrate_compute(plan(model.name, 8, 16), at_a_rate)
    calibrated = hopper.with_kernels(model, [eight, sixteen])
    engines = scale(experiment(model.name, decode_hosts=2), calibrated, model, 64).engines
    assert engines["prefill"].kernels == eight.times
    assert engines["decode"].kernels == sixteen.times
    assert engines["decode"].host_engines == 8
    assert scale(experiment(model.name, prefill_hosts=2, decode_hosts=2), calibrated, model, 64).engines[
        "prefill"
    ].kernels == (sixteen.times)
    dense = find_model("qwen2.5-32b")
    assert scale(experiment(dense.name), calibrated, dense, 64).engines["decode"].kernels is None


def test_experts_alone_are_measured_for_each_number_of_engines() -> None:
    def fewer_are_faster(kernels: Kernels) -> Measured:
        found = at_a_rate(kernels)
        tokens = [
            PointTimes(times.device_s * (10 if point == "experts" else 1) / engines, times.asking_s)
            for times, (point, engines) in zip(
                found.tokens, [(p.part, p.engines) for p in kernels.tokens], strict=True
            )
        ]
        return msgspec.structs.replace(found, tokens=tuple(tokens))

    several, one = plan("dualpath-27b", 8, 16), plan("dualpath-27b", 8)
    experts = sum(p.part == "experts" for p in Points.of(one).tokens)
    assert len(Points.of(several).tokens) == len(Points.of(one).tokens) + experts
    assert Points.of(several).kernels(several).attention == Points.of(one).kernels(one).attention
    eight, sixteen = calibrate_compute(several, fewer_are_faster)
    (dense, expert), (same, faster) = eight.times.mlps, sixteen.times.mlps
    assert (dense, eight.times.head, eight.times.attention) == (
        same,
        sixteen.times.head,
        sixteen.times.attention,
    )
    assert faster.of(1000) == pytest.approx(expert.of(1000) / 2)
    assert eight.prefill_tflop_per_s < sixteen.prefill_tflop_per_s


def test_what_is_measured_again_takes_the_place_of_what_was_and_the_rest_stays() -> None:
    model, other = find_model("dualpath-27b"), find_model("toy-latent")
    [eight, sixteen] = calibrate_compute(plan(model.name, 8, 16), at_a_rate)
    [toy] = calibrate_compute(plan(other.name), at_a_rate)
    before = load_profile("hopper-400g").with_kernels(model, [sixteen]).with_kernels(other, [toy])
    newer = msgspec.structs.replace(sixteen, device="another")
    after = before.with_kernels(model, [newer, eight])
    assert after.kernels == {model.name: (eight, newer), other.name: (toy,)}


def test_a_number_of_engines_that_was_not_measured_is_said_with_the_command_that_does() -> None:
    model = find_model("dualpath-27b")
    calibrated = load_profile("hopper-400g").with_kernels(
        model, calibrate_compute(plan(model.name, 8), at_a_rate)
    )
    of = experiment(model.name, "my h200.toml", prefill_hosts=3, decode_hosts=2)
    with pytest.raises(ExperimentError) as error:
        scale(of, calibrated, model, 64)
    assert str(error.value) == (
        "profile kernels of dualpath-27b: found measured with the experts over 8 engines, but this "
        "experiment has 24 prefill and 16 decode engines; expected over 16 and 24, too: 'dualpath calibrate "
        "compute dualpath-27b --engines 16,24 --profile 'my h200.toml' --out 'my h200.toml'' adds them"
    )


def test_a_run_says_what_its_kernels_were_measured_on(tmp_path: Path) -> None:
    model, file = find_model("dualpath-27b"), tmp_path / "mine.toml"
    eight, sixteen = calibrate_compute(plan(model.name, 8, 16), at_a_rate)

    def labels(*kernels: KernelProfile) -> list[str]:
        file.write_text(to_toml(load_profile("hopper-400g").with_kernels(model, kernels)))
        of = prepare(experiment(model.name, str(file), decode_hosts=2))
        told = circumstances(of, {"labels": []})["emulation"]["labels"]
        return [label for label in told if "not executed" in label]

    where = f"a test's (none) on {eight.measured_at}, not executed"
    assert labels(eight, sixteen) == [f"GPU compute is timed by what its kernels took on {where}"]
    elsewhere = msgspec.structs.replace(sixteen, device="another's")
    assert labels(eight, elsewhere) == [
        f"GPU compute of prefill hosts is timed by what its kernels took on {where}",
        "GPU compute of decode hosts is timed by what its kernels took on "
        + where.replace("a test's", "another's"),
    ]
    assert labels() == ["GPU compute is timed by a FLOP model, not executed"]


def test_a_fit_that_predicts_badly_is_said() -> None:
    def noisy(kernels: Kernels) -> Measured:
        found = at_a_rate(kernels)
        chance = np.random.default_rng(4)
        attention = tuple(
            PointTimes(times.device_s * chance.uniform(0.5, 2), times.asking_s) for times in found.attention
        )
        return msgspec.structs.replace(found, attention=attention)

    [kernels] = calibrate_compute(plan("toy-latent"), noisy)
    [warning] = [line for line in kernels_remarks([kernels]) if line.startswith("warning")]
    assert "held-out points are predicted up to" in warning
    assert kernels.held_out_again.points == kernels.held_out.points
    assert 0.5 < kernels.held_out_again.largest < 3
    assert f"they differ by up to {kernels.held_out_again.largest:.0%}" in warning


def test_token_times_between_points() -> None:
    times = TokenTimes(1, 0.0, (1, 10), (1.0, 10.0))
    assert (times.of(0.5), times.of(4), times.of(20)) == (1.0, 4.0, 20.0)


def test_a_device_that_cannot_capture_is_said() -> None:
    def uncaptured(kernels: Kernels) -> Measured:
        return msgspec.structs.replace(at_a_rate(kernels), not_captured=3, reason="capture invalidated")

    kernels = calibrate_compute(plan("toy-latent"), uncaptured)
    [warning] = [line for line in kernels_remarks(kernels) if line.startswith("warning")]
    assert "at 3 points" in warning
    assert "capture invalidated" in warning


def test_where_asking_is_computing_it_takes_no_time_of_its_own() -> None:
    def cpu(kernels: Kernels) -> Measured:
        found = at_a_rate(kernels)
        return msgspec.structs.replace(
            found,
            attention=tuple(PointTimes(t.device_s, 0) for t in found.attention),
            tokens=tuple(PointTimes(t.device_s, 0) for t in found.tokens),
        )

    [kernels] = calibrate_compute(plan("toy-latent"), cpu)
    assert kernels.held_out_asking is None
    kinds = [kind for _, kind in find_model("toy-latent").attention]
    assert kernels.times.asking_s(kinds, [[(1000, 100)]] * 8) == 0
