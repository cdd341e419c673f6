"""Copies within a host through its compute NIC, over every transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from transports import KINDS, TEST_TIMEOUT_S, config_of

from hosts.compute import NicPath
from hosts.compute.nic_path import located
from hosts.memory import mapped
from hosts.transport import Region, Strided, TransferError, Transport, open_transport

BLOCKS, LAYERS, LAYER_BYTES = 24, 3, 700
NBYTES = BLOCKS * LAYERS * LAYER_BYTES


class Lab(NamedTuple):
    """A host's Full Blocks of random bytes, and other memory of its own beside them."""

    transport: Transport
    nic: NicPath
    blocks: NDArray[np.uint8]
    beside: Region

    def layer(self, number: int) -> NDArray[np.uint8]:
        """[blocks, layer_bytes], as they lie in the Full Blocks."""
        return self.blocks[:, number * LAYER_BYTES : (number + 1) * LAYER_BYTES]


@asynccontextmanager
async def lab(kind: str) -> AsyncIterator[Lab]:
    memory, beside = (mapped(NBYTES, "base")[:NBYTES] for _ in range(2))
    memory[:] = np.random.default_rng(1).integers(0, 256, NBYTES, np.uint8)
    transport = await open_transport(config_of(kind, 0))
    try:
        nic = await NicPath.open(transport, transport.register(memory))
        yield Lab(transport, nic, memory.reshape(BLOCKS, -1), nic.offer(beside))
    finally:
        await transport.close()


def in_lab(kind: str, test: Callable[[Lab], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(TEST_TIMEOUT_S[kind]), lab(kind) as opened:
            await test(opened)

    asyncio.run(run())


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_layer_goes_out_without_gaps_and_comes_back_to_where_it_lay(kind: str) -> None:
    async def test(lab: Lab) -> None:
        rows, before = lab.layer(1), lab.blocks.copy()
        region, here = located(rows, [lab.nic.host_region])
        there = Strided(64, rows.size)
        await asyncio.wrap_future(lab.nic.write(region, here, lab.beside, there))
        assert np.array_equal(lab.beside.view[64 : 64 + rows.size].reshape(rows.shape), rows)
        assert not lab.beside.view[:64].any()
        assert not lab.beside.view[64 + rows.size :].any()
        rows[:] = 0
        await asyncio.wrap_future(lab.nic.write(lab.beside, there, region, here))
        assert np.array_equal(lab.blocks, before)

    in_lab(kind, test)


def test_both_directions_at_once_from_threads(kind: str) -> None:
    async def test(lab: Lab) -> None:
        before, each = lab.blocks.copy(), BLOCKS * LAYER_BYTES

        def there_and_back(layer: int) -> None:
            region, here = located(lab.layer(layer), [lab.nic.host_region])
            there = Strided(layer * each, each)
            for _ in range(3):
                lab.nic.write(region, here, lab.beside, there).result()
                lab.nic.write(lab.beside, there, region, here).result()

        with ThreadPoolExecutor(LAYERS) as threads:
            work = [threads.submit(there_and_back, layer) for layer in range(LAYERS)]
            await asyncio.gather(*map(asyncio.wrap_future, work))
        assert np.array_equal(lab.blocks, before)
        found = lab.beside.view.reshape(LAYERS, BLOCKS, LAYER_BYTES).swapaxes(0, 1).reshape(BLOCKS, -1)
        assert np.array_equal(found, before)

    in_lab(kind, test)


def test_what_was_withdrawn_is_not_written(kind: str) -> None:
    async def test(lab: Lab) -> None:
        region, here = located(lab.layer(0), [lab.nic.host_region])
        lab.nic.withdraw(lab.beside)
        with pytest.raises(TransferError):
            await asyncio.wrap_future(lab.nic.write(region, here, lab.beside, Strided(0, here.nbytes)))

    in_lab(kind, test)


def test_rows_are_found_in_the_region_that_they_lie_in() -> None:
    first, second = (Region(np.zeros(1000, np.uint8)) for _ in range(2))
    rows = second.view[100:900].reshape(8, 100)[2:6, 10:40]
    assert located(rows, [first, second]) == (second, Strided(310, 30, 4, 100))
    assert located(rows[:1], [first, second]) == (second, Strided(310, 30, 1, 30))
    with pytest.raises(ValueError, match="lie in no memory that the NIC was offered"):
        located(np.zeros((2, 10), np.uint8), [first, second])
