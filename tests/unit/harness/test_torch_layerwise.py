"""What is made of a pass and its parts; and the pass itself, on the CPU."""

from __future__ import annotations

import asyncio
import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bench.layerwise import LayerwiseReport, bench_layerwise
from hosts.bench.layerwise import LayerwisePass, PromptShape
from hosts.compute import ComputeError
from hosts.config import ComputeConfig

TOY = PromptShape("toy-latent", 256, 40, 64)
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed here (tox -e torch installs it)"
)
seconds = st.floats(1e-4, 10)


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=7))
def test_hidden_wholly_is_one_and_not_at_all_is_the_sum(parts: list[tuple[float, float]]) -> None:
    def over_longest(together: list[float]) -> float:
        load, compute = ([pair[i] for pair in parts] for i in (0, 1))
        rounds = {"load": load, "compute": compute, "together": together}
        return LayerwiseReport(TOY, "cpu", 1, 1, 1, rounds).over_longest

    assert over_longest([max(pair) for pair in parts]) == 1
    assert 1 < over_longest([sum(pair) for pair in parts]) <= 2


@needs_torch
def test_a_pass_and_its_parts_on_the_cpu() -> None:
    report = bench_layerwise(TOY, ComputeConfig("torch", "cpu", (), 2), rounds=3, seconds=0.001)
    assert {part: len(times) for part, times in report.rounds.items()} == {
        "load": 3,
        "compute": 3,
        "together": 3,
    }
    assert report.nbytes == 4 * 64 * 5 * 164
    assert report.over_longest > 0.5


@needs_torch
def test_a_pass_whose_bytes_are_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from hosts.compute.torch.kv import KvMemory

    monkeypatch.setattr(KvMemory, "unload", lambda self, lane, slots, rows: np.copyto(rows, 7))

    async def test() -> None:
        running = LayerwisePass(TOY, ComputeConfig("torch", "cpu", (), 2))
        with pytest.raises(ComputeError, match="1 of 5 blocks are wrong after a pass, block 4"):
            await running.verify()
        await running.close()

    asyncio.run(test())


@needs_torch
def test_a_layer_hides_behind_the_one_before_on_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("GPU: torch finds none here")
    shape = PromptShape("dualpath-27b", 32_768, 429, 64)
    report = bench_layerwise(shape, ComputeConfig("torch", "cuda", (), 8), rounds=2, seconds=0.2)
    assert report.over_longest <= 1.1
