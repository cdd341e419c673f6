"""Slots to and from host memory, by the device itself and through a NIC: here the CPU's, and TCP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process_hosts import engine
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")

import torch

from hosts.compute import NicPath, open_compute
from hosts.compute.torch import nic_copying
from hosts.compute.torch.copying import CopyEngines, CopyLane, CopyLanes, CpuCopyLane
from hosts.compute.torch.engine import Engine
from hosts.compute.torch.kv import KvMemory
from hosts.compute.torch.layers import Layers
from hosts.compute.torch.nic_copying import NicCopying
from hosts.config import ComputeConfig, Geometry, TransportConfig
from hosts.memory import mapped
from hosts.transport import TransferError, open_transport
from workloads.models import find_model

MODEL = find_model("toy-grouped")
SLOT_BYTES = 16 * MODEL.layer_kv_bytes_per_token
CPU = torch.device("cpu")
MEMORY_BYTES = 1 << 19


class Host:
    """Memory, a filler, and a transport whose loop runs in a thread of its own."""

    def __init__(self, runner: asyncio.Runner, resources: ExitStack) -> None:
        self.memory, self.filler = (mapped(MEMORY_BYTES, "base")[:MEMORY_BYTES] for _ in range(2))
        self.transport = runner.run(open_transport(TransportConfig("tcp")))
        resources.callback(lambda: runner.run(self.transport.close()))
        self.nic = runner.run(NicPath.open(self.transport, self.transport.register(self.memory)))
        self.runner = runner
        self.copying = {"nic": NicCopying([self.nic], 1, self.filler), "device": CopyEngines([CPU], [])}
        for copying in self.copying.values():
            resources.callback(copying.close)

    def until_there(self, lane: CopyLane) -> None:
        """The loop runs while the lane's thread needs it."""
        self.runner.run(asyncio.to_thread(lane.mark().wait))


@contextmanager
def host() -> Iterator[Host]:
    with ExitStack() as resources:
        runner = resources.enter_context(asyncio.Runner())
        yield Host(runner, resources)


@pytest.fixture(params=["device", "nic"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    layer=st.integers(0, 4),
    layer_bytes=st.integers(1, SLOT_BYTES),
    rows_at_once=st.integers(1, 4),
)
def test_rows_arrive_in_slots_and_come_back(
    parts: list[int], layer: int, layer_bytes: int, rows_at_once: int
) -> None:
    geometry = Geometry(5, 16, layer_bytes)
    rows = max(1, sum(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nic_copying, "LANDING_BYTES", rows_at_once * SLOT_BYTES)
        with host() as opened:
            rng = np.random.default_rng(1)
            opened.memory[:] = rng.integers(0, 256, MEMORY_BYTES, np.uint8)
            opened.filler[:] = rng.integers(0, 256, MEMORY_BYTES, np.uint8)
            blocks = opened.memory[: rows * geometry.full_block_bytes].reshape(rows, -1)
            columns = blocks[:, layer * layer_bytes : (layer + 1) * layer_bytes]
            for copying in opened.copying.values():
                there_and_back(opened, copying.lanes(0, CPU), geometry, columns, parts)


def there_and_back(
    opened: Host,
    lanes: tuple[CopyLane, CopyLane],
    geometry: Geometry,
    columns: NDArray[np.uint8],
    parts: list[int],
) -> None:
    kv = KvMemory(MODEL, geometry, 1, CPU, opened.filler[: 2 * SLOT_BYTES])
    slots, moved = kv.empty(len(columns)).zero_(), geometry.layer_block_bytes
    given_rows = sum(parts)
    before, expected = opened.memory.copy(), columns[:given_rows].copy()
    bounds = np.cumsum([0, *parts])
    kv.load(lanes[0], [columns[first:end] for first, end in pairwise(bounds)], slots)
    opened.until_there(lanes[0])
    assert np.array_equal(slots[:given_rows, :moved].numpy(), expected)
    if given_rows and moved < SLOT_BYTES:
        # As in true size: the rest of a slot is copied, too.
        assert np.array_equal(slots[0, moved:].numpy(), opened.filler[: SLOT_BYTES - moved])
    assert not slots[given_rows:].any()
    columns[:given_rows] = 0
    if given_rows:
        kv.unload(lanes[1], slots[:given_rows], columns[:given_rows])
    opened.until_there(lanes[1])
    assert np.array_equal(opened.memory, before)


def test_a_lane_keeps_its_order_and_waits_for_others(way: str) -> None:
    with host() as opened:
        copy_in, copy_out = opened.copying[way].lanes(0, CPU)
        rows = opened.memory[: 8 * 64].reshape(8, 64)
        rows[:] = np.arange(64)
        slots = torch.zeros(8, 64, dtype=torch.uint8)
        copy_in.load(rows, slots)
        copy_out.after(copy_in.mark())
        copy_out.unload(slots, opened.memory[1024 : 1024 + 8 * 64].reshape(8, 64))
        opened.until_there(copy_out)
        assert np.array_equal(opened.memory[1024 : 1024 + 8 * 64].reshape(8, 64), rows)


def test_an_engine_is_idle_when_all_lanes_are_also_if_one_has_failed() -> None:
    kv = KvMemory(MODEL, Geometry(5, 16, 100), 1, CPU, np.empty(4 * SLOT_BYTES, np.uint8))
    copies = CopyLanes(FailingLane(), CpuCopyLane())
    one = Engine(0, Layers(MODEL, 1, CPU), kv, copies)
    may_end, ended = threading.Event(), threading.Event()
    slow = SlowMark(may_end, ended)
    one.copy_out.mark = lambda: slow  # type: ignore[method-assign]

    async def test() -> None:
        idle = asyncio.create_task(one.idle())
        await asyncio.sleep(0.05)
        assert not idle.done()
        may_end.set()
        with pytest.raises(TransferError, match="the NIC failed"):
            await idle
        assert ended.is_set()

    try:
        asyncio.run(asyncio.wait_for(test(), 20))
    finally:
        one.close()


class FailingLane(CpuCopyLane):
    def mark(self) -> Any:
        class Failed:
            def wait(self) -> None:
                raise TransferError("itself", "write", 0, 0, "the NIC failed")

        return Failed()


class SlowMark:
    def __init__(self, may_end: threading.Event, ended: threading.Event) -> None:
        self._may_end, self._ended = may_end, ended

    def wait(self) -> None:
        assert self._may_end.wait(10)
        self._ended.set()


def test_what_cannot_become_idle_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from hosts.compute.torch import backend

    async def failed(engines: object) -> None:
        raise TransferError("itself", "write", 0, 0, "the NIC failed")

    async def test() -> None:
        config = ComputeConfig(kind="torch", device="cpu")
        compute = open_compute(
            config, engine(model=MODEL.name), 1, Geometry(5, 16, 100), 1, np.empty(64, np.uint8)
        )
        assert isinstance(compute, backend.TorchCompute)
        (one,) = compute._engines
        monkeypatch.setattr(backend, "all_idle", failed)
        with pytest.raises(TransferError):
            await compute.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            one.ask(lambda: None)

    asyncio.run(test())


def test_the_mark_behind_a_failed_copy_says_what_failed_and_the_lane_goes_on() -> None:
    with host() as opened:
        copy_in, _ = opened.copying["nic"].lanes(0, CPU)
        rows, slots = opened.memory[:640].reshape(10, 64), torch.zeros(10, 64, dtype=torch.uint8)
        copy_in.load(np.zeros((10, 64), np.uint8), slots)
        with pytest.raises(ValueError, match="lie in no memory that the NIC was offered"):
            opened.until_there(copy_in)
        rows[:] = 7
        copy_in.load(rows, slots)
        opened.until_there(copy_in)
        assert (slots == 7).all()
        opened.transport.deregister(opened.nic.host_region)
        copy_in.load(rows, slots)
        with pytest.raises(TransferError, match="not registered"):
            opened.until_there(copy_in)
