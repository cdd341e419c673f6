"""Predicted times are FLOPs and bytes over rates; a timeline is arithmetic on stages and arrivals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.compute import Piece, Prediction, in_step, prediction_of, timed
from hosts.compute.timed import CopyEngine, StageClock
from hosts.config import EngineConfig
from workloads.models import ModelError, find_model, kv_bytes_per_token, prefill_flops

START_NS = 1_000_000
FLOPS = 4e14
EXPERTS, DENSE = "dualpath-27b", "qwen2.5-32b"


def compute(
    model: str = EXPERTS,
    hbm_bytes_per_s: float = 3e12,
    weight_bytes: float = 0,
    decode_overhead_s: float = 0,
    time_dilation: float = 1,
) -> Prediction:
    return prediction_of(
        EngineConfig(
            model=model,
            gpu_flops=FLOPS,
            hbm_bytes_per_s=hbm_bytes_per_s,
            copy_bytes_per_s=5e10,
            weight_bytes=weight_bytes,
            kv_hbm_bytes=1e10,
            decode_overhead_s=decode_overhead_s,
            compute_quota_s=0.3,
            time_dilation=time_dilation,
        )
    )


pieces = st.builds(Piece, st.integers(0, 100_000), st.integers(1, 5_000))
batches = st.lists(st.lists(pieces, max_size=3), min_size=1, max_size=4).filter(any)


@given(piece=pieces, model=st.sampled_from([EXPERTS, DENSE]))
def test_a_prompt_alone_on_one_engine_takes_its_flops_over_the_rate(piece: Piece, model: str) -> None:
    engine = compute(model)
    expected_s = prefill_flops(engine.model, *piece) / FLOPS
    assert engine.forward_s([[piece]]) == pytest.approx(expected_s)


@given(batches)
def test_engines_in_step_wait_for_the_slowest_attention_and_share_the_experts(
    batches: list[list[Piece]],
) -> None:
    engine = compute()
    slowest_s = max(sum(engine.attention_s(*piece) for piece in batch) for batch in batches)
    all_pieces = [piece for batch in batches for piece in batch]
    shared = engine.model.mlp_flops(sum(piece.new_tokens for piece in all_pieces))
    shared += engine.model.head_flops * len(all_pieces)
    found_s = engine.forward_s(batches)
    assert found_s == pytest.approx(slowest_s + shared / FLOPS / len(batches))
    assert found_s == pytest.approx(engine.forward_s(batches[::-1]))


@given(batches)
def test_no_pass_is_faster_than_reading_the_weights(batches: list[list[Piece]]) -> None:
    light, heavy = compute(), compute(weight_bytes=3e11)
    assert heavy.forward_s(batches) == max(0.1, light.forward_s(batches))


@given(contexts=st.lists(st.lists(st.integers(0, 100_000), max_size=4), min_size=1, max_size=4).filter(any))
def test_a_decode_step_reads_the_slowest_engine_s_cache_and_the_weights_once(
    contexts: list[list[int]],
) -> None:
    # So slow an HBM that reading, never computing, takes the time.
    engine = compute(DENSE, hbm_bytes_per_s=1e9, weight_bytes=6e10, decode_overhead_s=0.004)
    read_bytes = max(sum(engine.model.decode_read_bytes(c) for c in batch) for batch in contexts)
    assert engine.decode_step_s(contexts) == pytest.approx(0.004 + read_bytes / 1e9 + 60.0, rel=1e-3)


def test_a_decode_step_takes_its_flops_where_hbm_is_fast() -> None:
    engine = compute(hbm_bytes_per_s=1e30)
    alone_s = engine.model.decode_flops(50_000) / FLOPS
    assert engine.decode_step_s([[50_000]]) == pytest.approx(alone_s)
    assert engine.decode_step_s([[50_000] * 8]) == pytest.approx(8 * alone_s)
    assert engine.decode_step_s([[50_000]] * 8) == pytest.approx(alone_s)


def test_copies_and_dilation() -> None:
    engine = compute(time_dilation=8)
    assert engine.copy_s(1000) == 1000 * kv_bytes_per_token(engine.model) / 5e10
    assert engine.dilated_ns(0.25) == 2_000_000_000


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ModelError, match="gpt-7"):
        compute("gpt-7")


@pytest.mark.parametrize(
    ("model", "engines", "groups"),
    [
        (EXPERTS, 4, [range(4)]),
        (DENSE, 3, [range(1), range(1, 2), range(2, 3)]),
        (DENSE, 0, []),
        (EXPERTS, 0, []),
    ],
)
def test_engines_with_experts_run_in_step_and_dense_ones_each_by_itself(
    model: str, engines: int, groups: list[range]
) -> None:
    assert list(in_step(engines, find_model(model))) == groups


@contextmanager
def standing_time() -> Iterator[list[int]]:
    """Time stands still; what would have been slept until."""
    moments: list[int] = []

    async def sleep_until(at_ns: int) -> None:
        moments.append(at_ns - START_NS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timed, "sleep_until", sleep_until)
        patch.setattr(time, "monotonic_ns", lambda: START_NS)
        yield moments


def ends_of(stages: list[tuple[int, int]]) -> list[int]:
    """End of each stage (duration, arrival after the start), after the start."""

    with standing_time():
        clock = StageClock()
        return [clock.stage(duration, START_NS + arrival) - START_NS for duration, arrival in stages]


def test_stages_follow_each_other_when_their_data_is_there() -> None:
    assert ends_of([(100, 0), (100, 0), (50, 0)]) == [100, 200, 250]


def test_a_late_stage_delays_those_behind_it_once() -> None:
    assert ends_of([(100, 0), (100, 500), (100, 0)]) == [100, 600, 700]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 5000)), min_size=1, max_size=20))
def test_the_end_is_the_longest_chain_from_an_arrival(stages: list[tuple[int, int]]) -> None:
    durations = [duration for duration, _ in stages]
    chains = [arrival + sum(durations[first:]) for first, (_, arrival) in enumerate(stages)]
    assert ends_of(stages)[-1] == max(chains)


def test_copies_of_one_engine_follow_each_other() -> None:
    engine = compute(time_dilation=2)
    each_ns = engine.dilated_ns(engine.copy_s(1000))

    async def run() -> None:
        copies = CopyEngine(engine)
        await asyncio.gather(*(copies.copy(1000) for _ in range(3)))

    with standing_time() as slept:
        asyncio.run(run())
    assert slept == [each_ns, 2 * each_ns, 3 * each_ns]


def test_sleep_until_is_not_early_by_more_than_a_timer_is_exact() -> None:
    async def run() -> int:
        until_ns = time.monotonic_ns() + 3_000_000
        await timed.sleep_until(until_ns)
        return time.monotonic_ns() - until_ns

    assert asyncio.run(run()) >= -500_000
