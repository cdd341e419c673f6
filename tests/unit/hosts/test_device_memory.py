"""GPU memory against a driver that keeps account of what it gave out; a real one is not asked."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import pytest

from hosts import device_memory
from hosts.bench.transfers import registered
from hosts.config import TransportConfig
from hosts.device_memory import DeviceMemory, DeviceMemoryError
from hosts.transport import TransferError, open_transport


class Driver:
    """The functions that are called, by their C signatures; ``refused`` return an error."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.refused: dict[str, int] = {}
        self.dma_buf_supported = 1

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            if code := self.refused.get(name):
                return code
            self._perform(name, arguments)
            return 0

        return call

    def _perform(self, name: str, arguments: tuple[Any, ...]) -> None:
        match name:
            case "cuDeviceGetAttribute":
                arguments[0]._obj.value = self.dma_buf_supported
            case "cuDevicePrimaryCtxRetain":
                self.held.append("context")
            case "cuDevicePrimaryCtxRelease_v2":
                self.held.remove("context")
            case "cuMemAlloc_v2":
                arguments[0]._obj.value = 0x7F00_0000_0000
                self.held.append(f"{arguments[1].value} bytes")
            case "cuMemFree_v2":
                self.held = [entry for entry in self.held if "bytes" not in entry]
            case "cuMemGetHandleForAddressRange":
                assert arguments[2].value % os.sysconf("SC_PAGE_SIZE") == 0
                arguments[0]._obj.value = os.memfd_create("dma-buf")
            case "cuGetErrorString":
                arguments[1]._obj.value = b"invalid argument"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    fake = Driver()
    monkeypatch.setattr(device_memory.ctypes, "CDLL", lambda name: fake)
    descriptors = len(os.listdir("/proc/self/fd"))
    yield fake
    assert fake.held == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_memory_is_whole_pages_with_a_dma_buf_and_all_of_it_is_given_back(driver: Driver) -> None:
    memory = DeviceMemory(5000)
    assert memory.nbytes == 8192
    assert driver.held == ["context", "8192 bytes"]
    os.fstat(memory.fd)
    memory.close()


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("cuInit", 100, "GPU 1: cuInit: invalid argument"),
        ("cuMemAlloc_v2", 2, "move less at once"),
        ("cuMemGetHandleForAddressRange", 801, r"\[CUDA error 801\]"),
    ],
)
def test_what_the_driver_refuses_is_said_and_nothing_is_kept(
    driver: Driver, name: str, code: int, said: str
) -> None:
    driver.refused[name] = code
    with pytest.raises(DeviceMemoryError, match=said):
        DeviceMemory(4096, ordinal=1)


def test_a_gpu_without_dma_buf_is_an_error_that_says_what_is_needed(driver: Driver) -> None:
    driver.dma_buf_supported = 0
    with pytest.raises(DeviceMemoryError, match="open kernel modules"):
        DeviceMemory(4096)


def test_without_a_driver_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(device_memory.ctypes, "CDLL", missing)
    with pytest.raises(DeviceMemoryError, match="no CUDA driver on this host"):
        DeviceMemory(4096)


def test_a_transport_that_cannot_reach_gpus_says_which_can() -> None:
    async def test() -> None:
        transport = await open_transport(TransportConfig("memory"))
        try:
            with pytest.raises(TransferError, match="expected verbs"), registered(transport, 4096, "gpu"):
                pass
        finally:
            await transport.close()

    asyncio.run(test())
