"""The driver's refusals in words, and that whoever takes something gives it back; no real driver is asked."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import closing

import numpy as np
import pytest
from fake_cuda import fake_cuda, no_cuda

from hosts.bench.device_copies import Layer, LayerCopies
from hosts.bench.transfers import registered
from hosts.config import TransportConfig
from hosts.cuda.copies import Direction, Pitched, batch_missing, copy_batch, copy_each, copy_pitched
from hosts.cuda.driver import CudaError, Gpu
from hosts.cuda.memory import DeviceBuffer, PinnedMemory, dma_buf
from hosts.cuda.streams import Stream
from hosts.transport import TransferError, open_transport


def copy_a_layer(direction: Direction) -> None:
    with (
        closing(Gpu()) as gpu,
        gpu.current(),
        closing(LayerCopies(gpu, Layer(64, 4, 3), direction)) as copies,
    ):
        copies.verify()
        for way in copies.ways:
            copies.time(way, 0.0)


def calls_of(direction: Direction) -> list[str]:
    with fake_cuda() as driver:
        copy_a_layer(direction)
        return driver.calls


def reach_by_dma_buf(nbytes: int, ordinal: int = 0) -> None:
    with closing(Gpu(ordinal)) as gpu, closing(DeviceBuffer(gpu, nbytes)) as memory:
        os.close(dma_buf(memory))


def test_gpu_memory_has_a_dma_buf_that_is_the_callers() -> None:
    with fake_cuda() as driver:
        reach_by_dma_buf(8192)
        assert driver.calls.count("cuMemGetHandleForAddressRange") == 1


def test_a_dma_buf_of_part_of_a_page_is_refused_before_the_driver_is_asked() -> None:
    with fake_cuda() as driver:
        with pytest.raises(CudaError, match="a dma-buf of 5000 bytes; expected whole pages of"):
            reach_by_dma_buf(5000)
        assert "cuMemGetHandleForAddressRange" not in driver.calls


@pytest.mark.parametrize(("ordering", "flushes"), [(0, 1), (100, 0), (200, 0)])
def test_what_nics_wrote_is_flushed_for_a_gpu_that_would_not_see_it(ordering: int, flushes: int) -> None:
    with fake_cuda() as driver, closing(Gpu(0)) as gpu, closing(DeviceBuffer(gpu, 64)) as memory:
        driver.writes_ordering = ordering
        memory.flush()
        assert driver.calls.count("cuFlushGPUDirectRDMAWrites") == flushes


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        (
            "cuInit",
            100,
            r"GPU 1: cuInit: no CUDA-capable device is detected \[CUDA error 100\]; is there one",
        ),
        ("cuMemAlloc_v2", 2, "move less at once"),
        ("cuMemGetHandleForAddressRange", 801, "GPU 1: cuMemGetHandleForAddressRange: CUDA error 801"),
    ],
)
def test_what_the_driver_refuses_is_said_and_nothing_is_kept(name: str, code: int, said: str) -> None:
    with fake_cuda(gpus=2) as driver:
        driver.refused[name] = code
        with pytest.raises(CudaError, match=said):
            reach_by_dma_buf(4096, ordinal=1)


def test_a_gpu_without_dma_buf_is_an_error_that_says_what_is_needed() -> None:
    with fake_cuda() as driver:
        driver.dma_buf_supported = 0
        with pytest.raises(CudaError, match="open kernel modules"):
            reach_by_dma_buf(4096)


def test_a_gpu_that_is_not_there_is_said_with_how_many_are() -> None:
    with fake_cuda(gpus=2), pytest.raises(CudaError, match="GPU 2: not there; found 2, counted from 0"):
        Gpu(2)


def test_without_a_driver_the_error_says_so() -> None:
    with (
        no_cuda(),
        pytest.raises(CudaError, match=r"no CUDA driver on this host: found libcuda\.so\.1: cannot"),
    ):
        Gpu()


def test_a_driver_without_a_function_is_said_with_its_version() -> None:
    with fake_cuda(version=11020) as driver:
        driver.missing.add("cuMemGetHandleForAddressRange")
        expected = r"no cuMemGetHandleForAddressRange; expected .* 11.7 or newer, found CUDA 11.2"
        with pytest.raises(CudaError, match=expected):
            reach_by_dma_buf(4096)


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_whichever_call_is_refused_its_error_is_raised_and_all_is_given_back(direction: Direction) -> None:
    calls = calls_of(direction)
    for number, name in enumerate(calls[: calls.index("cuEventDestroy_v2")]):  # the first to be given back
        if name == "cuCtxPopCurrent_v2":
            continue
        with fake_cuda() as driver:
            driver.refused_call = number
            if name == "cuGetProcAddress_v2":  # then there is no batch, and the rest goes on
                copy_a_layer(direction)
                continue
            with pytest.raises(CudaError, match="invalid argument"):
                copy_a_layer(direction)
            assert driver.calls[number] == name


def test_what_cannot_be_given_back_is_logged_behind_the_error_that_came_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with fake_cuda() as driver:
        driver.refused = {"cuEventElapsedTime": 1, "cuMemFree_v2": 2}
        with caplog.at_level(logging.WARNING), pytest.raises(CudaError, match="cuEventElapsedTime"):
            copy_a_layer("h2d")
        assert [record.getMessage() for record in caplog.records] == [
            "GPU 0: cuMemFree_v2: out of memory [CUDA error 2]; free GPU memory, or move less at once"
        ]
        driver._device.clear()  # which is what the refusal has left


def test_memory_is_not_given_back_under_a_copy() -> None:
    with fake_cuda(), closing(Gpu()) as gpu, gpu.current():
        memory = np.zeros(4096, np.uint8)
        with (
            closing(DeviceBuffer(gpu, 4096)) as device,
            closing(PinnedMemory(gpu, memory)) as host,
            closing(Stream(gpu)) as stream,
        ):
            rows = Pitched(device.address, 64), Pitched(host.address, 64)
            copy_pitched(*rows, 64, 64, "h2d", stream.handle)


@pytest.mark.parametrize(
    ("copy", "said"),
    [
        (copy_each, "copy: h2d, 64 bytes, row 2 of 3 from 0x[0-9a-f]+ to 0x[0-9a-f]+: invalid argument"),
        (copy_batch, "copy: h2d, cuMemcpyBatchAsync, 64 bytes, row 2 of 3: invalid argument"),
        (copy_pitched, "copy: h2d, cuMemcpy2DAsync, 64 bytes, 3 rows, 64 apart, to 96 apart: invalid"),
    ],
)
def test_a_row_that_reaches_out_of_the_memory_is_said(copy: object, said: str) -> None:
    assert callable(copy)
    with fake_cuda(), closing(Gpu()) as gpu, gpu.current():
        memory = np.zeros(192, np.uint8)
        with (
            closing(DeviceBuffer(gpu, 250)) as device,
            closing(PinnedMemory(gpu, memory)) as host,
            closing(Stream(gpu)) as stream,
            pytest.raises(CudaError, match=said),
        ):
            copy(Pitched(device.address, 96), Pitched(host.address, 64), 64, 3, "h2d", stream.handle)


def test_a_batch_on_stream_0_is_refused_with_the_stream_named() -> None:
    with fake_cuda(), closing(Gpu()) as gpu, gpu.current(), closing(DeviceBuffer(gpu, 128)) as device:
        rows = Pitched(device.address, 64)
        with pytest.raises(CudaError, match="2 rows, stream 0x0: invalid argument"):
            copy_batch(rows, rows, 64, 2, "h2d", 0)


@pytest.mark.parametrize(
    ("version", "missing", "words"), [(12040, [], "12.4"), (11080, ["cuGetProcAddress_v2"], "11.8")]
)
def test_an_older_driver_has_no_batch_and_says_which_it_is(
    version: int, missing: list[str], words: str
) -> None:
    with fake_cuda(version=version) as driver:
        driver.missing.update(missing)
        copy_a_layer("h2d")
        assert "cuMemcpyBatchAsync" not in driver.calls
        expected = f"no cuMemcpyBatchAsync: found that of CUDA {words}, expected 12.8 or newer"
        assert expected in batch_missing()
        with pytest.raises(CudaError, match=expected):
            copy_batch(Pitched(0, 64), Pitched(0, 64), 64, 2, "h2d", 16)


def test_a_newer_driver_is_asked_for_the_batch_that_came_first() -> None:
    with fake_cuda(version=13000) as driver:  # which says so if it is asked for another
        copy_a_layer("d2h")
        assert "cuMemcpyBatchAsync" in driver.calls


@pytest.mark.parametrize(
    ("direction", "where"), [("h2d", "wrong blocks on the GPU: 1"), ("d2h", "wrong blocks in host memory: 1")]
)
def test_a_wrong_byte_ends_the_measurement_before_it_begins(direction: Direction, where: str) -> None:
    with fake_cuda() as driver:
        driver.corrupts = "pitched"
        with pytest.raises(CudaError, match=f"pitched, {direction}, 4 blocks of 64 bytes: {where}"):
            copy_a_layer(direction)


def test_a_transport_that_cannot_reach_gpus_says_which_can() -> None:
    async def test() -> None:
        transport = await open_transport(TransportConfig("memory"))
        try:
            with pytest.raises(TransferError, match="expected verbs"), registered(transport, 4096, "gpu"):
                pass
        finally:
            await transport.close()

    asyncio.run(test())
