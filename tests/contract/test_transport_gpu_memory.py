"""One suite over every transport that reaches GPUs' memory: on this host's first GPU, where it has one, and
over NIXL also on memory of this process in a GPU's place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from fake_cuda import fake_cuda
from numpy.typing import NDArray
from transports import NIXL, TEST_TIMEOUT_S, VERBS, config_of

from hosts.bench.transfers import registered
from hosts.config import default_classes
from hosts.cuda.driver import CudaError, Gpu
from hosts.cuda.memory import DeviceBuffer
from hosts.nixl_agent import INSTALL
from hosts.transport import (
    Connection,
    Region,
    RegistersDeviceMemory,
    Strided,
    TransferError,
    Transport,
    open_transport,
)
from hosts.transport.nixl.ucx import open_agent

FAKE_GPU = "nixl on a fake GPU"
NBYTES = 1 << 18
SC_PAGE = os.sysconf("SC_PAGE_SIZE")
BLOCKS = Strided(4096, 1024, 16, 3000)
RUN = Strided(512, 16 * 1024)


class Descriptors(NamedTuple):
    """One list of them as NIXL made it: type of memory, and the devices in its rows."""

    kind: str
    devices: set[int]


class Ends(NamedTuple):
    """An initiator connected to a target, a GPU's memory at both, and a host's at the initiator."""

    transport: Transport
    target: Transport
    connection: Connection
    here: DeviceBuffer
    local: Region
    there: DeviceBuffer
    remote: Region
    on_host: Region


@pytest.fixture(params=[*[f"{kind} on a GPU" for kind in (*VERBS, "nixl")], FAKE_GPU])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def described() -> list[Descriptors]:
    """What NIXL made for a fake GPU."""
    return []


@pytest.fixture
def gpu(kind: str, described: list[Descriptors]) -> Iterator[Gpu]:
    if kind.startswith("nixl") and not NIXL:
        pytest.skip(f"NIXL is not installed: {INSTALL}")
    if kind == FAKE_GPU:
        # What UCX opens and closes when it is loaded is none of the fake driver's.
        open_agent("127.0.0.1", default_classes()["low"]).close()
        with fake_cuda(gpus=2), closing(Gpu(1)) as gpu, gpu.current(), moved_as_host_memory(described):
            yield gpu
        return
    try:
        real = Gpu()
    except CudaError as error:
        pytest.skip(f"GPU: {error}")
    with closing(real), real.current():
        yield real


@contextmanager
def moved_as_host_memory(described: list[Descriptors]) -> Iterator[None]:
    """NIXL makes the descriptors that it is asked for, and then gets those of host memory to work with."""
    from nixl_cu12 import nixl_agent

    with pytest.MonkeyPatch.context() as patch:
        for name in ("get_reg_descs", "get_xfer_descs"):
            make = getattr(nixl_agent, name)

            def instead(agent: Any, rows: Any, kind: str, make: Any = make) -> Any:
                found = str(make(agent, rows, kind).getType()).rpartition(".")[2]
                described.append(Descriptors(found, {int(device) for device in rows[:, 2]}))
                return make(agent, rows, "DRAM")

            patch.setattr(nixl_agent, name, instead)
        yield


@asynccontextmanager
async def ends_of(kind: str, gpu: Gpu) -> AsyncIterator[Ends]:
    transports = [await open_transport(config_of(kind.split()[0], end)) for end in (0, 1)]
    initiator, target = transports
    try:
        with closing(DeviceBuffer(gpu, NBYTES)) as here, closing(DeviceBuffer(gpu, NBYTES)) as there:
            assert isinstance(initiator, RegistersDeviceMemory)
            assert isinstance(target, RegistersDeviceMemory)
            local, remote = initiator.register_device_memory(here), target.register_device_memory(there)
            on_host = initiator.register(np.zeros(NBYTES, np.uint8))
            connection = await initiator.connect(target.address)
            yield Ends(initiator, target, connection, here, local, there, remote, on_host)
            for transport in transports:
                await transport.close()
    finally:
        for transport in transports:
            await transport.close()


def over_ends(kind: str, gpu: Gpu, test: Callable[[Ends], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(TEST_TIMEOUT_S[kind.split()[0]]), ends_of(kind, gpu) as ends:
            await test(ends)

    asyncio.run(run())


def random_bytes(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, NBYTES, np.uint8)


def after(to: NDArray[np.uint8], at: Strided, source: NDArray[np.uint8], source_at: Strided) -> Any:
    expected = to.copy()
    at.pieces(expected)[...] = source_at.pieces(source).reshape(at.count, at.length)
    return expected


@pytest.mark.parametrize("operation", ["read", "write"])
@pytest.mark.parametrize("from_host", [False, True])
def test_bytes_of_a_gpu_get_where_they_belong_and_none_beside_them(
    kind: str, gpu: Gpu, operation: str, from_host: bool
) -> None:
    async def test(ends: Ends) -> None:
        here, there = random_bytes(1), random_bytes(2)
        ends.here.write(here)
        ends.on_host.view[:] = here
        ends.there.write(there)
        local = ends.on_host if from_host else ends.local
        if operation == "write":
            await ends.connection.write(local, RUN, ends.remote.remote, BLOCKS)
            there = after(there, BLOCKS, here, RUN)
        else:
            await ends.connection.read(local, RUN, ends.remote.remote, BLOCKS)
            here = after(here, RUN, there, BLOCKS)
        np.testing.assert_array_equal(ends.on_host.view if from_host else ends.here.read(), here)
        np.testing.assert_array_equal(ends.there.read(), there)

    over_ends(kind, gpu, test)


def test_a_gpus_memory_is_described_as_that_gpus(kind: str, gpu: Gpu, described: list[Descriptors]) -> None:
    if kind != FAKE_GPU:
        pytest.skip("descriptors are looked at on a fake GPU")

    async def test(ends: Ends) -> None:
        await ends.connection.write(ends.local, RUN, ends.remote.remote, BLOCKS)
        assert described == [Descriptors("VRAM_SEG", {1})] * 4  # registered and transferred, at each end
        described.clear()
        await ends.connection.read(ends.on_host, RUN, ends.remote.remote, BLOCKS)
        on_host = Descriptors("DRAM_SEG", {ends.on_host.remote.key})
        on_gpu = Descriptors("VRAM_SEG", {1})
        assert described == [on_host, on_gpu, on_host]  # the first registered, then sent by the target

    over_ends(kind, gpu, test)


def test_gpu_memory_that_was_withdrawn_is_reached_no_more_and_the_next_connection_works(
    kind: str, gpu: Gpu, described: list[Descriptors]
) -> None:
    async def test(ends: Ends) -> None:
        await ends.connection.write(ends.local, RUN, ends.remote.remote, BLOCKS)
        ends.target.deregister(ends.remote)
        before = ends.there.read()
        ends.here.write(random_bytes(3))
        described.clear()
        with pytest.raises(TransferError):
            await ends.connection.write(ends.local, RUN, ends.remote.remote, BLOCKS)
        np.testing.assert_array_equal(ends.there.read(), before)
        assert isinstance(ends.target, RegistersDeviceMemory)
        again = ends.target.register_device_memory(ends.there)
        connection = await ends.transport.connect(ends.target.address)
        await connection.write(ends.local, RUN, again.remote, BLOCKS)
        np.testing.assert_array_equal(ends.there.read(), after(before, BLOCKS, random_bytes(3), RUN))
        if kind == FAKE_GPU:  # both ends began anew: nothing of the old region's is left with the peer
            assert described == [Descriptors("VRAM_SEG", {1})] * 4

    over_ends(kind, gpu, test)


def test_a_benchmarks_memory_is_a_gpus_whole_pages_and_offered_for_so_long(kind: str, gpu: Gpu) -> None:
    async def run() -> None:
        transport = await open_transport(config_of(kind.split()[0], 0))
        try:
            with registered(transport, 5000, "gpu") as region:
                assert region.registered
                assert region.remote.length == -(-5000 // SC_PAGE) * SC_PAGE
            assert not region.registered
        finally:
            await transport.close()

    asyncio.run(run())


@pytest.mark.skipif(not NIXL, reason=f"NIXL is not installed: {INSTALL}")
def test_nixl_says_what_it_takes_where_ucx_sees_no_gpu() -> None:
    async def test(ends: Ends) -> None:
        said = f"register: NIXL_ERR_BACKEND: {NBYTES} bytes of GPU 0; expected a UCX that reaches GPUs"
        with pytest.raises(TransferError, match=said):
            await ends.connection.write(ends.on_host, RUN, ends.remote.remote, BLOCKS)

    open_agent("127.0.0.1", default_classes()["low"]).close()
    with fake_cuda(), closing(Gpu()) as gpu, gpu.current():
        over_ends(FAKE_GPU, gpu, test)
