"""An engine's timeline is arithmetic on layers and arrivals."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.compute import TimedCompute, timed
from hosts.compute.timed import TimedPrefill
from workloads.models import find_model, prefill_flops

MODEL = find_model("dualpath-27b")
START_NS = 1_000_000


@pytest.fixture(autouse=True)
def instant(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Time stands still; what the engine would sleep until is noted."""
    slept: list[int] = []

    async def sleep_until(at_ns: int) -> None:
        slept.append(at_ns)

    monkeypatch.setattr(timed, "_sleep_until", sleep_until)
    monkeypatch.setattr(timed.time, "monotonic_ns", lambda: START_NS)
    return slept


def run_layers(prefill: TimedPrefill, arrivals: list[int]) -> list[int]:
    async def layers() -> list[int]:
        ends = []
        for ready_at_ns in arrivals:
            await prefill.layer(ready_at_ns)
            ends.append(prefill.end_at_ns)
        return ends

    return asyncio.run(layers())


def test_layers_follow_each_other_when_data_is_there() -> None:
    assert run_layers(TimedPrefill(100), [0, 0, 0]) == [START_NS + 100, START_NS + 200, START_NS + 300]


def test_a_late_layer_delays_those_behind_it_once() -> None:
    assert run_layers(TimedPrefill(100), [0, START_NS + 500, 0]) == [
        START_NS + 100,
        START_NS + 600,
        START_NS + 700,
    ]


@given(layer_ns=st.integers(0, 1000), offsets=st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_end_is_the_longest_chain_from_an_arrival(layer_ns: int, offsets: list[int]) -> None:
    prefill = TimedPrefill(layer_ns)
    end = run_layers(prefill, [START_NS + offset for offset in offsets])[-1]
    chains = [offset + (len(offsets) - layer) * layer_ns for layer, offset in enumerate([0, *offsets[1:]])]
    chains.append(offsets[0] + len(offsets) * layer_ns)
    assert end == START_NS + max(chains)
    assert prefill.compute_ns == len(offsets) * layer_ns


@given(dilation=st.floats(0.5, 64), context=st.integers(0, 100_000), new=st.integers(1, 5_000))
def test_a_prefill_takes_its_flops_over_the_rate_dilated(dilation: float, context: int, new: int) -> None:
    compute = TimedCompute(MODEL, gpu_flops=4e14, decode_step_s=0.02, time_dilation=dilation)
    expected_ns = prefill_flops(MODEL, context, new) / 4e14 * dilation * 1e9
    found_ns = compute.prefill(context, new).layer_ns * MODEL.layers
    assert abs(found_ns - expected_ns) <= MODEL.layers  # a layer is a whole number of nanoseconds


def test_decode_lasts_its_steps_from_where_it_began(instant: list[int]) -> None:
    compute = TimedCompute(MODEL, gpu_flops=1e15, decode_step_s=0.02, time_dilation=8)
    asyncio.run(compute.decode(10, from_ns=5))
    assert instant == [5 + 1_600_000_000]
