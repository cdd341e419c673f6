"""What is timed on a device, and what is not: by a CUDA that writes down what it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")

import torch

from hosts.compute.torch.device import find_devices
from hosts.compute.torch.stopwatch import CpuStopwatch, CudaStopwatch, Times

MIB = 1024 * 1024


class ScriptedCuda:
    """``torch.cuda`` as far as a stopwatch needs it. A replay takes 2 s by its events, the rest none."""

    def __init__(self, l2_bytes: int = 0, capture_fails: str = "") -> None:
        self.log: list[str] = []
        self.graphs = 0
        self._l2_bytes, self._capture_fails, self._at_s, self._capturing = l2_bytes, capture_fails, 0.0, False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        told = SimpleNamespace(L2_cache_size=self._l2_bytes)
        patch.setattr(
            torch.cuda,
            "Stream",
            lambda device: SimpleNamespace(
                device=device, wait_stream=lambda other: None, synchronize=lambda: self.log.append("wait")
            ),
        )
        patch.setattr(torch.cuda, "get_device_properties", lambda device: told)
        patch.setattr(torch.cuda, "current_stream", lambda device: None)
        patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        patch.setattr(torch.cuda, "Event", lambda enable_timing: ScriptedEvent(self))
        patch.setattr(torch.cuda, "CUDAGraph", self._graph)
        patch.setattr(torch.cuda, "graph", self._capture)
        patch.setattr(torch, "empty", lambda size, dtype, device: ScriptedBuffer(self, size))

    def work(self) -> None:
        self.log.append("captured" if self._capturing else "asked")
        if self._capturing and self._capture_fails:
            raise RuntimeError(self._capture_fails)

    def now(self) -> float:
        return self._at_s

    def _replay(self) -> None:
        self.log.append("replay")
        self._at_s += 2

    def _graph(self) -> Any:
        self.graphs += 1
        return SimpleNamespace(replay=self._replay, reset=self._freed)

    def _freed(self) -> None:
        self.graphs -= 1

    @contextmanager
    def _capture(self, graph: Any, stream: Any) -> Iterator[None]:
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = False


class ScriptedEvent:
    def __init__(self, cuda: ScriptedCuda) -> None:
        self._cuda = cuda

    def record(self, stream: Any) -> None:
        self._cuda.log.append("event")
        self.at_s = self._cuda.now()

    def elapsed_time(self, later: ScriptedEvent) -> float:
        return (later.at_s - self.at_s) * 1e3


class ScriptedBuffer:
    def __init__(self, cuda: ScriptedCuda, nbytes: int) -> None:
        self._cuda, self.nbytes = cuda, nbytes

    def zero_(self) -> None:
        self._cuda.log.append(f"overwrite {self.nbytes // MIB} MiB")


@pytest.mark.parametrize(("l2_mib", "overwritten_mib"), [(50, 256), (192, 384)])
def test_a_gpu_replays_what_it_captured_with_a_cold_cache_and_nothing_else_is_in_its_time(
    monkeypatch: pytest.MonkeyPatch, l2_mib: int, overwritten_mib: int
) -> None:
    cuda = ScriptedCuda(l2_mib * MIB)
    cuda.install(monkeypatch)
    times = CudaStopwatch(torch.device("cuda")).times(cuda.work, seconds=0)
    assert times.device_s == [2, 2, 2, 2]
    assert len(times.asking_s) == 1
    assert not times.not_captured
    warm_up, asking, captured = ["asked", "asked"], ["wait", "asked"], ["captured"]
    run = [f"overwrite {overwritten_mib} MiB", "event", "replay", "event"]
    assert cuda.log == [*warm_up, *asking, *captured, *run * 5, "wait", "wait"]
    assert cuda.graphs == 0


def test_what_cannot_be_captured_is_asked_for_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = ScriptedCuda(capture_fails="not permitted when stream is capturing\nmore")
    cuda.install(monkeypatch)
    times = CudaStopwatch(torch.device("cuda")).times(cuda.work, seconds=0)
    assert times.not_captured == "not permitted when stream is capturing"
    assert cuda.log[5:] == ["overwrite 256 MiB", "event", "asked", "event"] * 5 + ["wait", "wait"]
    assert cuda.graphs == 0


def test_a_graph_is_freed_when_a_replay_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = ScriptedCuda()
    cuda.install(monkeypatch)

    def failing() -> None:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(cuda, "_replay", failing)
    with pytest.raises(RuntimeError, match="device-side assert"):
        CudaStopwatch(torch.device("cuda")).times(cuda.work, seconds=0)
    assert cuda.graphs == 0


def test_on_the_cpu_asking_is_computing() -> None:
    runs: list[int] = []
    times = CpuStopwatch().times(lambda: runs.append(1), seconds=0)
    assert len(runs) == 2
    assert len(times.device_s) == 1
    assert times.asking_s == [0.0]


def test_times_of_more_rounds_are_added() -> None:
    times = Times([1.0], [2.0])
    times.add(Times([3.0], [4.0], "why"))
    times.add(Times([5.0], [6.0]))
    assert times == Times([1.0, 3.0, 5.0], [2.0, 4.0, 6.0], "why")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU: torch finds none here")
def test_a_gpu_s_time_has_no_asking_in_it() -> None:
    """Forty small products are asked for in more time than they take; a large one in far less."""
    (device,) = find_devices("cuda", (), 1)
    small, large = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for size in (64, 8192))
    stopwatch = CudaStopwatch(device)
    many = stopwatch.times(lambda: [small @ small for _ in range(40)], 0.1)
    one = stopwatch.times(lambda: large @ large, 0.1)
    assert not many.not_captured
    assert min(many.asking_s) > min(many.device_s)
    assert min(one.device_s) > 5 * min(one.asking_s)
