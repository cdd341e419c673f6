"""``dualpath bench storage --memory gpu`` on fake libraries that read the real file, and on none."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_cuda import FakeCuda, fake_cuda, no_cuda
from fake_cufile import FakeCuFile, fake_cufile, no_cufile
from typer.testing import CliRunner

from harness.bench.cli import bench
from harness.bench.contest import Contest, Result
from harness.bench.gpu_storage_table import in_a_sentence
from harness.cli import main

OPTIONS = ["--size", "1M", "--block", "64K", "--depth", "2", "--seconds", "0.1", "--rounds", "2"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def driver() -> Iterator[FakeCuda]:
    with fake_cuda() as fake:
        yield fake


@pytest.fixture
def library(driver: FakeCuda, tmp_path: Path) -> Iterator[FakeCuFile]:
    with fake_cufile(driver, tmp_path) as fake:
        yield fake


def output(store: Path, *options: str) -> str:
    result = CliRunner().invoke(bench, ["storage", str(store), "--memory", "gpu", *OPTIONS, *options])
    assert result.exit_code == 0, result.output
    assert list(store.iterdir()) == []
    return result.stdout


def test_cufile_stands_beside_each_way_through_host_memory(store: Path, library: FakeCuFile) -> None:
    [case] = json.loads(output(store, "--engine", "threads,io_uring", "--json"))
    assert (case["gpu"], case["cuda_driver"]) == ("Fake GPU", "12.8")
    assert case["cufile"] == {"mode": "direct", "reason": "", "version": "1.14", "nvidia_fs": "2.20.5"}
    assert case["reads"] == {"block_bytes": 65536, "depth": 2, "random": False, "seconds": 0.1}
    assert set(case["engines"]) == {"threads", "io_uring"}
    assert case["engines"]["threads"] == "threads"
    rounds = case["contest"]["rounds"]
    assert list(rounds) == ["cufile", "host, threads", "host, io_uring"]
    for results in rounds.values():
        assert len(results) == 2
        for found in results:
            assert found["bytes_per_s"] > 0
            assert found["bytes_per_s"] == pytest.approx(found["operations_per_s"] * 65536)
            assert 0 < found["latency_s_p50"] <= found["latency_s_p99"]
            assert found["cpu_s_per_gb"] > 0


@pytest.mark.parametrize(
    ("nvidia_fs", "obeys", "said"),
    [
        (True, True, "read directly: it was forbidden to go through host memory"),
        (False, True, "not GPUDirect Storage: it went through host memory (compatibility mode),"),
        (True, False, "not known whether it read directly: its properties allow it to go through"),
    ],
)
def test_people_are_told_what_the_figures_are_of(
    store: Path, library: FakeCuFile, nvidia_fs: bool, obeys: bool, said: str
) -> None:
    library.nvidia_fs, library.obeys = nvidia_fs, obeys
    text = output(store, "--engine", "threads", "--rounds", "1")
    lines = text.splitlines()
    assert "sequential 64KiB, depth 2, cache direct, gpu memory" in lines
    assert "Fake GPU, driver of CUDA 12.8: is cufile faster?" in lines
    [answer] = [line for line in lines if line.startswith("64KiB, beside host, threads: ")]
    assert answer.endswith("x)")
    assert text.count("cuFile 1.14, nvidia-fs 2.20.5:") == 1
    assert lines[lines.index("cuFile 1.14, nvidia-fs 2.20.5:") + 1].startswith(said)
    assert ("[cuFile error 5001]" in text) == (not nvidia_fs)


@pytest.mark.parametrize(
    ("cufile", "host", "said"),
    [
        ([3.0, 4.0], [2.0, 2.0], "faster in every round (1.50x to 2.00x)"),
        ([3.0, 1.0], [4.0, 2.0], "slower in every round (0.50x to 0.75x)"),
        ([3.0, 1.0], [2.0, 2.0], "no difference that every round shows (0.50x to 1.50x)"),
    ],
)
def test_a_difference_is_one_that_every_round_shows(
    cufile: list[float], host: list[float], said: str
) -> None:
    rounds = {"cufile": cufile, "host, threads": host}
    contest = Contest({tool: [Result(bytes_per_s=rate) for rate in rates] for tool, rates in rounds.items()})
    assert in_a_sentence(contest, "host, threads") == said


@pytest.fixture
def fails(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The command's one line on stderr, its exit status having been checked; nothing is left in the store."""

    def call(status: int, *options: str) -> str:
        command = ["dualpath", "bench", "storage", str(store), "--memory", "gpu", *OPTIONS, *options]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        assert (exit_.value.code, captured.out) == (status, "")
        assert list(store.iterdir()) == []
        [line] = captured.err.splitlines()
        return line

    return call


def test_without_a_gpu_it_fails_in_a_line(fails: Callable[..., str]) -> None:
    with no_cuda():
        assert "no CUDA driver on this host" in fails(3)


def test_without_the_library_it_fails_in_a_line(driver: FakeCuda, fails: Callable[..., str]) -> None:
    with no_cufile():
        assert "no cuFile on this host: found libcufile.so.0: cannot open" in fails(3)


def test_what_cufile_refuses_in_any_mode_is_a_line(library: FakeCuFile, fails: Callable[..., str]) -> None:
    library.refused["cuFileBufRegister"] = 5036
    assert "cuFileBufRegister: the GPU's memory cannot be pinned [cuFile error 5036]; fewer" in fails(3)


def test_a_read_that_fails_while_it_is_timed_is_a_line(
    library: FakeCuFile, fails: Callable[..., str]
) -> None:
    library.reads_give, library.errno, library.fails_from = (
        -1,
        errno.EIO,
        4,
    )  # behind those that look and verify
    assert "Input/output error" in fails(3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cache", "page"], "--cache: found page, cuFile reads past it: expected direct with --memory gpu"),
        (["--block", "2M"], "--block: found 2MiB, expected at most the file's 1MiB (--size)"),
    ],
)
def test_what_makes_no_sense_is_bad_input(fails: Callable[..., str], options: list[str], said: str) -> None:
    assert said in fails(2, *options)
