"""Predictions from measured kernels: the longer of computing and asking, and whose asking adds up."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.compute import Piece, Prediction, prediction_of
from hosts.config import EngineConfig
from hosts.kernel_times import AttentionTimes, KernelTimes, TokenTimes
from hosts.kernel_work import AskingWork, DecodeWork, PrefillWork
from workloads.models import find_model

MODEL = "toy-grouped"
LAYERS = find_model(MODEL).layers


def kernels(device_s: float, asking_s: float) -> KernelTimes:
    """A layer, a new token and a request take ``device_s``, or ``asking_s`` to ask for; so do the parts."""
    prefill = PrefillWork(device_s, device_s, 0, 0, 0, 0, 0, 0, 0, 0)
    decode = DecodeWork(device_s, device_s, 0, 0)
    return KernelTimes(
        attention=(AttentionTimes(LAYERS, prefill, decode, AskingWork(asking_s, asking_s, asking_s)),),
        mlps=(TokenTimes(LAYERS, asking_s, (1, 100), (device_s, 100 * device_s)),),
        head=TokenTimes(1, asking_s, (1, 100), (device_s, 100 * device_s)),
    )


def predicted(times: KernelTimes, host_engines: int = 1) -> Prediction:
    return prediction_of(
        EngineConfig(
            model=MODEL,
            gpu_flops=1e12,
            hbm_bytes_per_s=1e12,
            copy_bytes_per_s=5e10,
            weight_bytes=0,
            kv_hbm_bytes=1e10,
            decode_overhead_s=0,
            compute_quota_s=0.3,
            time_dilation=1,
            kernels=times,
            host_engines=host_engines,
        )
    )


times = st.floats(1e-6, 1e-3)
pieces = st.builds(Piece, st.integers(0, 50_000), st.integers(1, 50))
batches = st.lists(st.lists(pieces, max_size=3), min_size=1, max_size=4).filter(any)


@given(times, times, batches)
def test_a_pass_and_a_step_take_the_longer_of_computing_and_asking(
    device_s: float, asking_s: float, batches: list[list[Piece]]
) -> None:
    contexts = [[piece.cached_tokens for piece in batch] for batch in batches]
    both, computing, asking = (
        predicted(kernels(*pair)) for pair in ((device_s, asking_s), (device_s, 0), (0, asking_s))
    )
    passes = computing.forward_s(batches), asking.forward_s(batches)
    assert both.forward_s(batches) == max(passes)
    steps = computing.decode_step_s(contexts), asking.decode_step_s(contexts)
    assert both.decode_step_s(contexts) == max(steps)


@given(st.lists(pieces, min_size=1, max_size=3), st.integers(1, 8))
def test_asking_adds_up_over_a_host_s_engines_and_computing_does_not(
    batch: list[Piece], engines: int
) -> None:
    for one, many in (
        (predicted(kernels(0, 1e-5)), engines),
        (predicted(kernels(1e-5, 0)), 1),
    ):
        assert one.forward_s([batch] * engines) == pytest.approx(many * one.forward_s([batch]))
        contexts = [piece.cached_tokens for piece in batch]
        assert one.decode_step_s([contexts] * engines) == pytest.approx(many * one.decode_step_s([contexts]))
        others = predicted(msgspec.structs.replace(one.config).kernels or kernels(0, 0), engines)
        assert others.forward_s([batch]) == pytest.approx(many * one.forward_s([batch]))


def test_every_loop_of_the_asking_thread_counts() -> None:
    """Two requests of a pass: layer and requests of attention, an MLP in each layer, the head."""
    asking = predicted(kernels(0, 1.0))
    assert asking.forward_s([[Piece(0, 5), Piece(10, 5)]]) == LAYERS * (1 + 2) + LAYERS + 1
    assert asking.forward_s([[Piece(0, 5)], []]) == LAYERS * 2 + 2 * (LAYERS + 1)
    assert asking.decode_step_s([[7, 7, 7]]) == LAYERS * (1 + 3) + LAYERS + 1


def test_a_request_alone_is_what_it_adds_to_a_batch() -> None:
    computing = predicted(kernels(1.0, 0))
    assert computing.attention_s(100, 7) == LAYERS * 7
    assert computing.forward_s([[Piece(100, 7)]]) == computing.prompt_s(100, 7) + LAYERS
