"""What is made of a pass and its parts; and the pass itself, on the CPU."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from harness.bench.layerwise import LayerwiseReport, bench_layerwise, print_layerwise
from hosts.bench.layerwise import LayerwisePass, PassPart, PromptShape
from hosts.compute import ComputeError
from hosts.config import ComputeConfig, CopyKind, TransportConfig

TOY = PromptShape("toy-latent", 256, 40, 64)
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed here (tox -e torch installs it)"
)
seconds = st.floats(1e-4, 10)


def reported(parts: list[tuple[float, float]], together: list[float]) -> LayerwiseReport:
    load, compute = ([pair[i] for pair in parts] for i in (0, 1))
    rounds: dict[PassPart, list[float]] = {"load": load, "compute": compute, "together": together}
    return LayerwiseReport(TOY, "cpu", "copy engines", 1, 1, 1, rounds)


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=7))
def test_hidden_wholly_is_one_and_not_at_all_is_the_sum(parts: list[tuple[float, float]]) -> None:
    hidden = reported(parts, [max(pair) for pair in parts])
    in_turn = reported(parts, [sum(pair) for pair in parts])
    assert hidden.over_longest == 1
    assert 1 < in_turn.over_longest <= 2
    if hidden.hidden is None:
        load, compute = (hidden.seconds(part) for part in get_args(PassPart)[:2])
        assert min(load, compute) < 0.1 * max(load, compute)
    else:
        assert hidden.hidden == pytest.approx(1)
        assert in_turn.hidden == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("together", "said"),
    [
        (0.010, "(100% of the other is hidden behind it)"),
        (0.013, "(25% of the other is hidden behind it)"),
        (0.0218, "(nothing is hidden: together takes 7.8 ms more than one after the other)"),
    ],
)
def test_what_is_hidden_in_words(together: float, said: str) -> None:
    with (console := Console(width=200)).capture() as printed:
        print_layerwise(reported([(0.004, 0.010)], [together]), console)
    assert printed.get().splitlines()[-1].endswith(said)


@needs_torch
@pytest.mark.parametrize("copy", get_args(CopyKind))
def test_a_pass_and_its_parts_on_the_cpu(copy: CopyKind) -> None:
    config = ComputeConfig("torch", "cpu", (), 2, copy=copy)
    report = bench_layerwise(TOY, config, TransportConfig("tcp"), rounds=3, seconds=0.001)
    assert {part: len(times) for part, times in report.rounds.items()} == {
        "load": 3,
        "compute": 3,
        "together": 3,
    }
    assert report.nbytes == 4 * 64 * 5 * 164
    assert report.over_longest > 0.5


@needs_torch
@pytest.mark.parametrize(
    ("function", "broken", "said"),
    [
        ("unload", lambda rows: np.copyto(rows, 7), "1 of 5 blocks are wrong after a pass, block 4"),
        ("load", lambda rows: None, "4 of 4 blocks are wrong on the device after loading them, block 0"),
    ],
)
def test_a_pass_whose_bytes_are_wrong_is_not_timed(
    function: str, broken: Callable[[NDArray[np.uint8]], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hosts.compute.torch.copying import CpuCopyLane

    monkeypatch.setattr(
        CpuCopyLane,
        function,
        lambda self, *rows: broken(next(part for part in rows if isinstance(part, np.ndarray))),
    )

    async def test() -> None:
        running = LayerwisePass(TOY, ComputeConfig("torch", "cpu", (), 2))
        await running.open(TransportConfig("tcp"))
        with pytest.raises(ComputeError, match=said):
            await running.verify()
        await running.close()

    asyncio.run(test())


@needs_torch
def test_a_layer_hides_behind_the_one_before_on_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("GPU: torch finds none here")
    shape = PromptShape("dualpath-27b", 32_768, 429, 64)
    report = bench_layerwise(
        shape, ComputeConfig("torch", "cuda", (), 8), TransportConfig("tcp"), rounds=2, seconds=0.2
    )
    assert report.over_longest <= 1.1
