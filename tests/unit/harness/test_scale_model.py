"""The scale model: every ratio of the real system holds in the emulated one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.experiment import Cluster, Experiment, ExperimentError, Replay, Scale, Workload, load_profile
from harness.scale_model import ScaleModel, figures_in_force, scale
from hosts.compute import Piece, Prediction
from workloads.models import MODELS, Model, find_model, kv_bytes_per_token

PROFILE = load_profile("hopper-400g").replaced({"gpu_memory": 1000})  # every model fits one engine
PASS = [[Piece(30_000, 500), Piece(0, 64)], [Piece(10_000, 400)]]


def experiment(scale: Scale, prefill_hosts: int = 1, decode_hosts: int = 1) -> Experiment:
    return Experiment(
        name="x",
        model="any",
        workload=Workload(synthesize="paper-64k"),
        replay=Replay(agents=1),
        cluster=Cluster(prefill_hosts=prefill_hosts, decode_hosts=decode_hosts),
        scale=scale,
    )


def scaled(model: Model, bytes_divisor: float, dilation: float = 8, layers_divisor: int = 1) -> ScaleModel:
    factors = Scale(bytes_divisor=bytes_divisor, time_dilation=dilation, layers_divisor=layers_divisor)
    return scale(experiment(factors), PROFILE, model, 64)


models = st.sampled_from(list(MODELS.values()))
divisors = st.floats(1, 5000)


@given(model=models, divisor=divisors, dilation=st.floats(0.5, 100), layers_divisor=st.integers(1, 100))
def test_every_ratio_of_bytes_and_rates_holds(
    model: Model, divisor: float, dilation: float, layers_divisor: int
) -> None:
    emulated = scaled(model, divisor, dilation, layers_divisor)
    real_block_bytes = kv_bytes_per_token(model) * 64
    assert emulated.geometry.full_block_bytes * emulated.bytes_divisor == pytest.approx(real_block_bytes)
    assert emulated.bytes_divisor == pytest.approx(
        divisor, rel=0.5 * divisor / (real_block_bytes / 94) + 1e-9
    )
    assert emulated.rate_divisor == emulated.bytes_divisor * dilation
    assert emulated.storage_nic_bytes_per_s * emulated.rate_divisor == pytest.approx(50e9)
    assert emulated.compute_nic_bytes_per_s * emulated.rate_divisor == pytest.approx(8 * 50e9)
    assert emulated.buffer_bytes["decode"] * emulated.bytes_divisor == pytest.approx(80e9, rel=1e-3)
    assert {engine.time_dilation for engine in emulated.engines.values()} == {dilation}


@given(model=models, layers_divisor=st.integers(1, 100))
def test_fewer_layers_keep_a_full_blocks_bytes_and_a_passes_time(model: Model, layers_divisor: int) -> None:
    whole, merged = scaled(model, 64), scaled(model, 64, layers_divisor=layers_divisor)
    layers = merged.geometry.layers
    assert layers == -(-model.layers // layers_divisor)
    assert merged.layers_divisor == model.layers / layers
    # Layer Blocks are whole bytes, each rounded by at most half of one.
    blocks_bytes = (merged.geometry.full_block_bytes, whole.geometry.full_block_bytes)
    assert abs(blocks_bytes[0] - blocks_bytes[1]) <= (layers + model.layers) / 2
    assert merged.engines == whole.engines
    pass_ns = [
        Prediction(of.engines["prefill"], model).dilated_ns(
            Prediction(of.engines["prefill"], model).forward_s(PASS)
        )
        for of in (whole, merged)
    ]
    assert pass_ns[0] == pass_ns[1] > 0


def test_on_a_rack_nothing_is_scaled() -> None:
    model = find_model("dualpath-27b")
    rack = scaled(model, 1, 1)
    assert rack.summary() == {
        "bytes_divisor": 1,
        "time_dilation": 1,
        "layers_divisor": 1,
        "rate_divisor": 1,
    }
    assert rack.geometry.layer_block_bytes == 64 * model.layer_kv_bytes_per_token
    assert (rack.storage_nic_bytes_per_s, rack.buffer_bytes["prefill"]) == (50e9, 80e9)


def test_a_scale_that_leaves_no_byte_of_a_layer_block_is_refused() -> None:
    model = find_model("dualpath-27b")
    real = 64 * model.layer_kv_bytes_per_token
    assert scaled(model, real).geometry.layer_block_bytes == 1
    with pytest.raises(ExperimentError) as error:
        scaled(model, 3 * real)
    assert str(error.value) == (
        f"scale.bytes_divisor: found {3 * real:g}, but a Layer Block of dualpath-27b has {real} bytes; "
        f"expected at most {real}"
    )


@given(prefill_hosts=st.integers(1, 16), decode_hosts=st.integers(1, 16))
def test_engines_of_a_role_share_the_weights_of_a_model_with_experts(
    prefill_hosts: int, decode_hosts: int
) -> None:
    model = find_model("deepseek-v3.2-660b")
    factors = Scale(bytes_divisor=64, time_dilation=8)
    engines = scale(experiment(factors, prefill_hosts, decode_hosts), PROFILE, model, 64).engines
    for role, hosts in (("prefill", prefill_hosts), ("decode", decode_hosts)):
        engine = engines["prefill" if role == "prefill" else "decode"]
        assert engine.weight_bytes * hosts * 8 == pytest.approx(model.weight_bytes)
        assert engine.weight_bytes + engine.kv_hbm_bytes == pytest.approx(1000e9 * 0.9)


@pytest.mark.parametrize("hosts", [1, 2, 8])
def test_each_engine_has_all_weights_of_a_dense_model(hosts: int) -> None:
    model = find_model("qwen2.5-32b")
    factors = Scale(bytes_divisor=64, time_dilation=8)
    engines = scale(experiment(factors, hosts, hosts), PROFILE, model, 64).engines
    assert {engine.weight_bytes for engine in engines.values()} == {model.weight_bytes}


@pytest.mark.parametrize("engines", [0.5, 1.5])
def test_a_part_of_an_engine_is_refused(engines: float) -> None:
    profile = PROFILE.replaced({"engines_per_host": engines})
    with pytest.raises(ExperimentError, match=rf"engines_per_host: found {engines}, expected a whole number"):
        scale(experiment(Scale(bytes_divisor=1, time_dilation=1)), profile, find_model("dualpath-27b"), 64)


def test_what_the_experiment_replaced_is_stored_as_such() -> None:
    figures = figures_in_force(PROFILE)
    assert figures["gpu_memory"] == {"value": 1000, "unit": "GB an engine", "source": "experiment file"}
    assert figures["storage_nic"]["source"] == "paper 7.1"
    assert msgspec.json.decode(msgspec.json.encode(figures)) == figures
