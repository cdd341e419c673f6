"""GPUs sampled by NVML: over a scripted stand-in for it, and over NVML itself where a machine has it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fake_nvml import GIB, FakeGpu, FakeNvml, NVMLError_GpuIsLost, NVMLError_NotSupported, Shown
from hypothesis import given
from hypothesis import strategies as st

from hosts import gpu_counters
from hosts.gpu_counters import GpuCounters, GpuSampler, GrowingCounter, open_gpu_counters
from hosts.nvml import NvmlError, open_nvml
from hosts.protocol import GpuSample, GpuSamples

Install = Callable[[FakeNvml], FakeNvml]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a stand-in what ``import pynvml`` finds."""

    def put(fake: FakeNvml) -> FakeNvml:
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put


@pytest.fixture
def real_gpus() -> Iterator[list[GpuCounters]]:
    try:
        with open_nvml() as nvml:
            if not nvml.gpus:
                pytest.skip("GPU: the NVIDIA driver lists none")
            yield [GpuCounters(nvml, gpu) for gpu in nvml.gpus]
    except NvmlError as error:
        pytest.skip(f"GPU: {error}")


def repetition(fake: FakeNvml, instants_s: list[float]) -> list[GpuSamples]:
    with open_gpu_counters() as gpus:
        begun = [gpu.begin() for gpu in gpus]
        for fake.now_s in instants_s:
            for gpu in gpus:
                gpu.sample(round(fake.now_s * 1e9))
    return begun


def test_a_repetition_of_a_gpu(install: Install) -> None:
    def script(now_s: float) -> Shown:
        return Shown(
            utilization=int(40 * now_s),
            memory_used=round(30 * now_s) * GIB,
            pcie_tx=10**15 + int(7e9 * now_s),
            pcie_rx=10**15 + int(9e9 * now_s),
            sm_clock=1980 - int(100 * now_s),
            reasons=4,
            temperature=40 + int(now_s),
            power=700_000,
        )

    fake = install(FakeNvml([FakeGpu(script)]))
    [gpu] = repetition(fake, [1.0, 2.0])
    assert (gpu.index, gpu.uuid, gpu.name) == (0, "GPU-00000000", "Fake H100")
    assert (gpu.memory_bytes, gpu.max_sm_clock_mhz) == (80 * GIB, 1980)
    first, second = gpu.samples
    assert first.sample_cost_ns > 0
    assert second == GpuSample(
        at_ns=2_000_000_000,
        sample_cost_ns=second.sample_cost_ns,
        utilization_percent=80,
        memory_used_bytes=60 * GIB,
        pcie_tx_bytes=7 * 10**9,
        pcie_rx_bytes=9 * 10**9,
        sm_clock_mhz=1780,
        memory_clock_mhz=2619,
        clocks_event_reasons=4,
        temperature_celsius=42,
        power_mw=700_000,
    )
    assert fake.opened == 0


def test_what_a_gpu_does_not_support_is_none_and_the_rest_is_there(install: Install) -> None:
    no = NVMLError_NotSupported()
    shown = Shown(utilization=no, memory_used=no, reasons=no, power=no, pcie_return=3)
    fake = install(FakeNvml([FakeGpu(lambda now_s: shown, memory_total=no, max_sm_clock=no)]))
    [gpu] = repetition(fake, [0.0])
    assert (gpu.memory_bytes, gpu.max_sm_clock_mhz) == (None, None)
    [sample] = gpu.samples
    assert (sample.utilization_percent, sample.memory_used_bytes, sample.power_mw) == (None, None, None)
    assert (sample.pcie_tx_bytes, sample.pcie_rx_bytes, sample.clocks_event_reasons) == (None, None, None)
    assert (sample.sm_clock_mhz, sample.temperature_celsius, sample.error) == (1980, 40, "")


def test_a_lost_gpu_says_so_and_the_others_go_on(install: Install) -> None:
    def lost(now_s: float) -> Shown:
        return Shown(memory_used=NVMLError_GpuIsLost()) if now_s > 1 else Shown()

    fake = install(FakeNvml([FakeGpu(lost), FakeGpu()]))
    first, second = repetition(fake, [1.0, 2.0, 3.0])
    assert [sample.error for sample in first.samples] == ["", "GPU is lost", "GPU is lost"]
    assert [sample.sm_clock_mhz for sample in first.samples] == [1980, None, None]
    assert [sample.error for sample in second.samples] == [""] * 3


def test_each_repetition_counts_from_zero(install: Install) -> None:
    fake = install(FakeNvml([FakeGpu(lambda now_s: Shown(pcie_tx=int(1e9 * now_s)))]))
    with open_gpu_counters() as [gpu]:
        for begin_s in (5.0, 50.0):
            samples = gpu.begin()
            for fake.now_s in (begin_s, begin_s + 1):
                gpu.sample(0)
            assert [sample.pcie_tx_bytes for sample in samples.samples] == [0, 10**9]


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_a_counter_of_32_bits_may_wrap_between_any_two_readings(start: int, steps: list[int]) -> None:
    counter, value = GrowingCounter(), start
    assert counter.read(start, 32) == 0
    for count, step in enumerate(steps, 1):
        value = (value + step) % 2**32
        assert counter.read(value, 32) == sum(steps[:count])


def test_a_counter_of_64_bits_that_falls_was_reset() -> None:
    counter = GrowingCounter()
    assert [counter.read(value, 64) for value in (2**40, 2**40 + 5, 3, 10)] == [0, 5, 8, 15]


def test_a_field_tells_how_wide_it_is(install: Install) -> None:
    def script(now_s: float) -> Shown:
        return Shown(pcie_tx=(2**32 - 10 + int(now_s * 30)) % 2**32, pcie_type=1)

    [gpu] = repetition(install(FakeNvml([FakeGpu(script)])), [0.0, 1.0])
    assert [sample.pcie_tx_bytes for sample in gpu.samples] == [0, 30]


def test_gpus_are_sampled_beside_the_event_loop_at_once_regularly_and_at_the_end(install: Install) -> None:
    install(FakeNvml([FakeGpu(), FakeGpu()]))
    threads: set[str] = set()

    async def run(gpus: list[GpuCounters]) -> list[GpuSamples]:
        sampler = GpuSampler(gpus, interval_s=0.02)
        samples = sampler.begin(time.monotonic_ns())
        await asyncio.sleep(0.2)
        threads.update(thread.name for thread in threading.enumerate())
        await sampler.end()
        await sampler.end()
        return samples

    with open_gpu_counters() as gpus:
        first, second = asyncio.run(run(gpus))
    assert "gpu-telemetry" in threads
    at_ns = [sample.at_ns for sample in first.samples]
    assert 5 <= len(at_ns) <= 12
    assert at_ns == sorted(at_ns)
    assert at_ns[0] < 50_000_000
    assert at_ns[-1] >= 200_000_000
    assert len(second.samples) == len(at_ns)


def test_a_gpu_that_keeps_a_call_does_not_keep_the_agent(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_counters, "_END_TIMEOUT_S", 0.05)
    answered = threading.Event()

    def script(now_s: float) -> Shown:
        if now_s > 0:
            answered.wait(30)
        return Shown()

    fake = install(FakeNvml([FakeGpu(script)]))

    async def run(gpus: list[GpuCounters]) -> None:
        sampler = GpuSampler(gpus, interval_s=0.01)
        sampler.begin(time.monotonic_ns())
        began = time.monotonic()
        await sampler.end()
        assert time.monotonic() - began < 10
        assert sampler.begin(time.monotonic_ns()) == []

    with open_gpu_counters() as gpus:
        fake.now_s = 1.0
        asyncio.run(run(gpus))
        answered.set()
        for thread in threading.enumerate():
            if thread.name == "gpu-telemetry":
                thread.join(10)


def test_without_a_gpu_there_is_no_thread_and_one_reason(
    install: Install, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with caplog.at_level(logging.INFO), open_gpu_counters() as gpus:
        assert gpus == []
        assert GpuSampler(gpus, 0.02).begin(0) == []
    assert "gpu-telemetry" not in {thread.name for thread in threading.enumerate()}
    assert caplog.messages == ["no GPU is sampled: no nvidia-ml-py (pip install nvidia-ml-py)"]


def test_this_machine_s_gpus(real_gpus: list[GpuCounters]) -> None:
    for gpu in real_gpus:
        samples = gpu.begin()
        for at_ns in (0, 1):
            gpu.sample(at_ns)
            time.sleep(0.1)
        assert samples.uuid.startswith("GPU-")
        assert [sample.error for sample in samples.samples] == ["", ""]
        assert all(sample.sm_clock_mhz for sample in samples.samples)
        assert all(sample.clocks_event_reasons is not None for sample in samples.samples)
