"""What every compute back-end does with KV and its engines; torch on the CPU and on any GPU."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from transports import VERBS, config_of

from hosts.compute import Chunk, Compute, NicPath, Piece, ResidentKv, all_layers, open_compute
from hosts.config import ComputeConfig, DeviceKind, EngineConfig, Geometry
from hosts.content import fill_blocks, salts
from hosts.memory import mapped
from hosts.transport import open_transport

MODELS = ("toy-latent", "toy-grouped")
GEOMETRY = Geometry(layers=5, block_tokens=16, layer_block_bytes=100)
SEED = 11
ENGINE = EngineConfig(
    model="",
    gpu_flops=1e12,
    hbm_bytes_per_s=1e12,
    copy_bytes_per_s=1e9,
    weight_bytes=0,
    kv_hbm_bytes=1e9,
    decode_overhead_s=0,
    compute_quota_s=1,
    time_dilation=1,
)


def missing(kind: str) -> str:
    """Why a back-end cannot be tested here; empty if it can."""
    if kind == "timed":
        return ""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed here (tox -e torch installs it)"
    if "on a GPU" in kind:
        import torch

        if not torch.cuda.is_available():
            return "GPU: torch finds none here"
        if "NIC" in kind and not VERBS:
            return "GPU: no RDMA ports here ($DUALPATH_VERBS_ADDRESSES)"
    return ""


@pytest.fixture(
    params=[
        "timed",
        "torch on the CPU",
        "torch on the CPU, NIC over tcp",
        *(f"torch on the CPU, NIC over {kind}" for kind in VERBS),
        "torch on a GPU",
        "torch on a GPU, NIC over verbs",
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if reason := missing(name):
        pytest.skip(reason)
    if name != "timed":
        importlib.import_module("torch")  # a minute in the emulated machine that has RDMA
    return name


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class HostMemory:
    """What a host registers, page-locks or offers to its NIC; a test's prompts lie in it one after the
    other."""

    def __init__(self, nbytes: int) -> None:
        self.view = mapped(nbytes, "base")[:nbytes]
        self.taken_bytes = 0

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        self.taken_bytes += nbytes
        assert self.taken_bytes <= len(self.view)
        return self.view[self.taken_bytes - nbytes : self.taken_bytes]


MEMORY = HostMemory(1 << 17)


@pytest.fixture(autouse=True)
def unused_memory() -> None:
    MEMORY.taken_bytes = 0


class BufferedKv:
    """See `PassKv`: a prompt of whole cached blocks and new tokens in the host's memory."""

    def __init__(self, first_id: int, cached_blocks: int, new_blocks: int, moves: bool = True) -> None:
        self.moves, self.cached_blocks = moves, cached_blocks
        self.ids = np.arange(first_id, first_id + cached_blocks + new_blocks)
        nbytes = len(self.ids) * GEOMETRY.full_block_bytes
        self.blocks = MEMORY.take(nbytes).reshape(len(self.ids), GEOMETRY.full_block_bytes)
        self.blocks[:] = 0xAA
        fill_blocks(self.blocks[:cached_blocks], SEED, self.ids[:cached_blocks])
        self.copied_tokens = cached_blocks * GEOMETRY.block_tokens if moves else 0

    def cached_rows(self, layer: int) -> Sequence[NDArray[np.uint8]]:
        half = self.cached_blocks // 2 + 1
        rows = self._rows(layer)
        return rows[:half], rows[half : self.cached_blocks]

    def new_rows(self, layer: int) -> NDArray[np.uint8]:
        return self._rows(layer)[self.cached_blocks :]

    def new_salts(self) -> NDArray[np.uint64]:
        return salts(SEED, self.ids[self.cached_blocks :])

    def fill_new(self) -> None:
        if self.moves:
            fill_blocks(self.blocks[self.cached_blocks :], SEED, self.ids[self.cached_blocks :])

    def chunk(self, new_tokens: int, resident: ResidentKv | None = None) -> Chunk:
        return Chunk(Piece(self.cached_blocks * GEOMETRY.block_tokens, new_tokens), self, resident)

    def expected(self) -> NDArray[np.uint8]:
        made = np.empty_like(self.blocks)
        fill_blocks(made, SEED, self.ids)
        return made

    def _rows(self, layer: int) -> NDArray[np.uint8]:
        width = GEOMETRY.layer_block_bytes
        return self.blocks[:, layer * width : (layer + 1) * width]


@dataclass
class Request:
    """See `Decoding`."""

    context_tokens: int
    resident: ResidentKv | None


@asynccontextmanager
async def opened(kind: str, model: str, engines: int = 2) -> AsyncIterator[Compute]:
    device: DeviceKind = "cuda" if "GPU" in kind else "cpu"
    config = ComputeConfig(kind="timed" if kind == "timed" else "torch", device=device, expert_engines=2)
    engine = msgspec.structs.replace(ENGINE, model=model)
    async with AsyncExitStack() as resources:
        nics = []
        if "NIC" in kind:
            transport = await open_transport(config_of(kind.split()[-1], 0))
            resources.push_async_callback(transport.close)
            nics.append(await NicPath.open(transport, transport.register(MEMORY.view)))
        compute = open_compute(config, engine, engines, GEOMETRY, SEED, MEMORY.view, nics)
        resources.push_async_callback(compute.close)
        yield compute


async def whole_pass(compute: Compute, batches: Sequence[Sequence[Chunk]]) -> int:
    """All layers of a pass; what its computing took."""
    async with compute.forward(range(len(batches)), batches) as forward:
        await all_layers(forward, GEOMETRY.layers)
    return forward.compute_ns


def loaded(resident: Any) -> NDArray[np.uint8]:
    """What lies in a device's memory: [layers, blocks, slot_bytes]."""
    return np.stack([slots.cpu().numpy() for slots in resident.slots])


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_a_pass_puts_every_layer_s_new_kv_into_host_memory(kind: str, model: str) -> None:
    async def test() -> None:
        first, second = BufferedKv(0, 5, 2), BufferedKv(100, 0, 3)
        async with opened(kind, model) as compute:
            took_ns = await whole_pass(compute, [[first.chunk(20), second.chunk(48)], []])
        assert took_ns > 0
        for kv in (first, second):
            assert np.array_equal(kv.blocks, kv.expected())

    run(test())


def test_a_layer_s_new_kv_is_there_when_it_is_computed(kind: str, model: str) -> None:
    async def test() -> None:
        kv = BufferedKv(7, 3, 1)
        async with (
            opened(kind, model) as compute,
            compute.forward(range(2), [[kv.chunk(9)], []]) as forward,
        ):
            for layer in range(GEOMETRY.layers):
                forward.begin(layer, 0)
                await forward.computed(layer)
                end = (layer + 1) * GEOMETRY.layer_block_bytes
                assert np.array_equal(kv.blocks[:, :end], kv.expected()[:, :end])

    run(test())


def test_a_turn_that_moves_nothing_is_computed_all_the_same(kind: str, model: str) -> None:
    async def test() -> None:
        still = BufferedKv(0, 4, 1, moves=False)
        before = still.blocks.copy()
        async with opened(kind, model) as compute:
            assert await whole_pass(compute, [[], [still.chunk(16)]]) > 0
            await compute.decode(range(2)).step([[Request(80, None)], []])
        assert np.array_equal(still.blocks, before)

    run(test())


def test_without_layerwise_prefill_the_kv_is_loaded_before_and_freed_after(kind: str, model: str) -> None:
    async def test() -> None:
        kv = BufferedKv(3, 6, 2)
        async with opened(kind, model) as compute:
            resident = await compute.load(0, kv, 8 * GEOMETRY.block_tokens)
            await whole_pass(compute, [[kv.chunk(30, resident)], []])
            resident.free()
            resident.free()
        assert np.array_equal(kv.blocks, kv.expected())

    run(test())


def test_requests_decode_over_what_was_loaded_and_over_nothing(kind: str, model: str) -> None:
    async def test() -> None:
        kv = BufferedKv(3, 6, 0)
        async with opened(kind, model) as compute:
            resident = await compute.load(1, kv, 7 * GEOMETRY.block_tokens)
            if kind != "timed":
                found = loaded(resident)[:, :6, : GEOMETRY.layer_block_bytes].swapaxes(0, 1).reshape(6, -1)
                assert np.array_equal(found, kv.expected())
            request = Request(6 * GEOMETRY.block_tokens, resident)
            steps = compute.decode(range(2))
            for _ in range(3):
                await steps.step([[], [request, Request(40, None)]])
                request.context_tokens += 1

    run(test())


def test_an_end_while_kv_is_loaded_does_not_wait_for_itself(kind: str, model: str) -> None:
    async def test() -> None:
        kv = BufferedKv(0, 60, 0)
        async with opened(kind, model) as compute:
            loading = asyncio.create_task(compute.load(0, kv, 60 * GEOMETRY.block_tokens))
            await asyncio.sleep(0)
            await compute.close()
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)

    run(test())


def test_after_an_early_end_nobody_touches_host_memory(kind: str, model: str) -> None:
    async def test() -> None:
        kv = BufferedKv(0, 64, 8)
        async with opened(kind, model) as compute:

            async def given_up() -> None:
                async with compute.forward(range(2), [[kv.chunk(128)], []]) as forward:
                    forward.begin(0, 0)
                    forward.begin(1, 0)
                    await asyncio.Event().wait()

            task = asyncio.create_task(given_up())
            await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()  # whoever is in a hurry
            await asyncio.wait([task])
            assert task.cancelled()
            kv.blocks[:] = 0x55
            await whole_pass(compute, [[BufferedKv(500, 1, 1).chunk(5)], []])
            assert (kv.blocks == 0x55).all()

    run(test())
