"""``dualpath bench copies`` on a driver whose GPU's times are known, on older ones, and on none."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from fake_cuda import BATCHED_S, BYTES_PER_S, COPY_S, PITCHED_S, fake_cuda, no_cuda
from typer.testing import CliRunner

from harness.bench.cli import bench
from harness.bench.copies import CopiesCase
from harness.bench.copies_table import in_a_sentence
from harness.bench.crossover import Crossover, crossover
from harness.cli import main
from hosts.bench import device_copies
from hosts.bench.device_copies import CopyTimes, Layer

SIZES, BLOCKS = [4096, 65536, 1 << 20, 2 << 20], 8
COMMAND = ["copies", "--blocks", "8", "--seconds", "0.1", "--rounds", "2"]
QUICK = [*COMMAND, "--block", "2M,4K,64K,1M,4K", "--direction", "h2d"]


@pytest.fixture(autouse=True)
def one_copy_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them would say the same: the fake's GPU has a clock of its own."""
    seconds = SimpleNamespace(monotonic=iter(range(1 << 20)).__next__)
    monkeypatch.setattr(device_copies, "time", seconds)


def device_s(way: str, block_bytes: int) -> float:
    """What the fake takes."""
    overhead_s = {
        "each": BLOCKS * COPY_S,
        "batch": COPY_S + BLOCKS * BATCHED_S,
        "pitched": COPY_S + BLOCKS * PITCHED_S,
        "whole": COPY_S,
    }
    return overhead_s[way] + BLOCKS * block_bytes / BYTES_PER_S


def test_every_figure_is_of_the_way_and_the_size_that_it_stands_beside() -> None:
    with fake_cuda():
        result = CliRunner().invoke(bench, [*QUICK, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["gpu"], report["cuda_driver"], report["batch_missing"]) == ("Fake GPU", "12.8", "")
    assert [case["layer"]["block_bytes"] for case in report["cases"]] == SIZES
    for case in report["cases"]:
        assert case["direction"] == "h2d"
        assert list(case["rounds"]) == ["each", "batch", "pitched", "whole"]
        for way, rounds in case["rounds"].items():
            assert len(rounds) == 2
            for times in rounds:
                expected = device_s(way, case["layer"]["block_bytes"])
                assert times["device_s"] == pytest.approx(expected, rel=1e-3)
                assert times["submit_s"] > 0
    assert report["crossovers"] == {"h2d": {"from_bytes": 1 << 20, "short_bytes": 65536}}


def test_people_get_a_table_and_a_sentence_in_80_columns() -> None:
    with fake_cuda():
        result = CliRunner().invoke(bench, [*COMMAND, "--block", "4K,1M,2M"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "Fake GPU, driver of CUDA 12.8"
    assert "h2d: a layer of 8 Full Blocks of 2 layers" in lines
    assert "d2h: a layer of 8 Full Blocks of 2 layers" in lines
    table = [line.split() for line in lines if line.lstrip().startswith("4KiB")]
    assert [row[:2] for row in table] == [["4KiB", way] for way in ("each", "batch", "pitched", "whole")] * 2
    assert table[0][2:4] == [f"{BLOCKS * 4096 / device_s('each', 4096) / 1e9:.3f}", "15.3%"]
    assert lines.count("each reaches 90% of whole from 1MiB on (4KiB: 15%);") == 2
    assert lines.count("faster than each by 2% or more: batch at every size, pitched at every size") == 2
    assert max(map(len, lines)) <= 80


def test_an_older_driver_is_measured_without_batches_and_says_so() -> None:
    with fake_cuda(version=12040):
        result = CliRunner().invoke(bench, [*COMMAND, "--block", "4K", "--direction", "d2h"])
    assert result.exit_code == 0, result.output
    assert "batch: this driver has no cuMemcpyBatchAsync: found that of CUDA 12.4" in result.stdout
    assert "faster than each by 2% or more: pitched at every size" in result.stdout


def case(block_bytes: int, **device_s: list[float]) -> CopiesCase:
    rounds = {way: [CopyTimes(1, seconds, 1e-6) for seconds in times] for way, times in device_s.items()}
    return CopiesCase("h2d", Layer(block_bytes, 512, 2), rounds)  # type: ignore[arg-type]


def test_ratios_are_those_of_the_same_round() -> None:
    drifting = case(4096, each=[2.0, 20.0, 4.0], whole=[1.0, 10.0, 3.0])
    assert drifting.ratio("each", "whole") == 0.5
    assert drifting.bytes_per_s("each") == 4096 * 512 / 4.0
    assert drifting.submit_us_per_block("each") == pytest.approx(1 / 512)


@pytest.mark.parametrize(
    ("each_s", "said"),
    [
        (
            (4.0, 2.0),
            "each stays below 90% of whole (64KiB: 50%);\nfaster than each by 2% or more: pitched up",
        ),
        ((4.0, 1.1), "each reaches 90% of whole from 64KiB on (4KiB: 25%);\nfaster"),
        (
            (1.0, 1.0),
            "each reaches 90% of whole at every size;\nfaster than each by 2% or more: pitched at no",
        ),
    ],
)
def test_the_crossover_in_a_sentence(each_s: tuple[float, float], said: str) -> None:
    cases = [
        case(size, each=[seconds], pitched=[2.0], whole=[1.0])
        for size, seconds in zip((4096, 65536), each_s, strict=True)
    ]
    found = crossover({c.layer.block_bytes: c.ratio("each", "whole") for c in cases})
    assert isinstance(found, Crossover)
    assert in_a_sentence(cases, found).startswith(said)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command's one line on stderr, its exit status having been checked."""

    def call(status: int, *options: str) -> str:
        monkeypatch.setattr("sys.argv", ["dualpath", "bench", *COMMAND, *options])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        assert (exit_.value.code, captured.out) == (status, "")
        [line] = captured.err.splitlines()
        return line

    return call


def test_without_a_driver_it_fails_in_a_line(fails: Callable[..., str]) -> None:
    with no_cuda():
        line = fails(3)
    assert line == (
        "dualpath: no CUDA driver on this host: found libcuda.so.1: cannot open shared object file; expected "
        "the library that comes with a GPU's driver: install that, go where nvidia-smi shows a GPU, or keep "
        "to host memory"
    )


def test_a_gpu_that_is_not_there_is_a_line(fails: Callable[..., str]) -> None:
    with fake_cuda(gpus=2):
        assert "GPU 5: not there; found 2, counted from 0" in fails(3, "--gpu", "5")


def test_too_little_gpu_memory_is_a_line(fails: Callable[..., str]) -> None:
    with fake_cuda() as driver:
        driver.refused["cuMemAlloc_v2"] = 2
        line = fails(3)
    assert line == (
        "dualpath: GPU 0: cuMemAlloc_v2: out of memory [CUDA error 2]; free GPU memory, or move less at once"
    )


def test_a_direction_that_is_none_is_bad_input(fails: Callable[..., str]) -> None:
    assert "direction: found 'up', expected some of h2d, d2h" in fails(2, "--direction", "up")
