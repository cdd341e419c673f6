"""What every transport promises, run over each of them."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import subprocess
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transports import BETWEEN_PROCESSES, KINDS, NIXL, REGION_BYTES, VERBS, Pair, over_pair

from hosts.nixl_agent import INSTALL
from hosts.transport import RemoteRegion, Strided, TransferError


@pytest.mark.skipif(not VERBS, reason="NOT COLLECTED: all tests over verbs; tox -e rdma has two RDMA ports")
def test_verbs_are_collected() -> None:
    assert "verbs" in KINDS


@pytest.mark.skipif(not NIXL, reason=f"NOT COLLECTED: all tests over nixl; {INSTALL}, or tox -e nixl")
def test_nixl_is_collected() -> None:
    assert "nixl" in KINDS


def gathered(view: np.ndarray, at: Strided) -> bytes:
    """The pieces' bytes, in the plainest way there is."""
    starts = [at.offset + piece * at.stride for piece in range(at.count)]
    return b"".join(view[start : start + at.length].tobytes() for start in starts)


def scattered(view: np.ndarray, at: Strided, payload: bytes) -> np.ndarray:
    """``view`` after the payload was placed, everything else as it was."""
    after = view.copy()
    for piece in range(at.count):
        start = at.offset + piece * at.stride
        after[start : start + at.length] = np.frombuffer(
            payload[piece * at.length : (piece + 1) * at.length], np.uint8
        )
    return after


@st.composite
def two_shapes(draw: st.DrawFn) -> tuple[Strided, Strided]:
    """Two descriptors of equally many bytes within REGION_BYTES."""
    unit = draw(st.integers(1, 3000))
    pieces = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24, 48, 96]))
    total = unit * pieces

    def shape() -> Strided:
        count = draw(st.sampled_from([n for n in range(1, pieces + 1) if pieces % n == 0]))
        length = total // count
        stride = length + draw(st.integers(0, (REGION_BYTES - total) // count))
        slack = REGION_BYTES - ((count - 1) * stride + length)
        return Strided(draw(st.integers(0, slack)), length, count, stride)

    return shape(), shape()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(shapes=st.lists(two_shapes(), min_size=1, max_size=4), write=st.booleans())
def test_bytes_arrive_where_they_belong_and_nowhere_else(
    kind: str, shapes: list[tuple[Strided, Strided]], write: bool
) -> None:
    async def test(ends: Pair) -> None:
        for local_at, remote_at in shapes:
            if write:
                source, target = ends.local.view, ends.remote.view
                expected = scattered(target, remote_at, gathered(source, local_at))
                await ends.connection.write(ends.local, local_at, ends.remote.remote, remote_at)
            else:
                source, target = ends.remote.view, ends.local.view
                expected = scattered(target, local_at, gathered(source, remote_at))
                await ends.connection.read(ends.local, local_at, ends.remote.remote, remote_at)
            assert np.array_equal(target, expected)

    over_pair(kind, test)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece_bytes", [8_000, 100_000])
def test_large_strided_operations(kind: str, piece_bytes: int) -> None:
    async def test(ends: Pair) -> None:
        count = 9_000_000 // piece_bytes
        here = Strided(5, piece_bytes, count, piece_bytes + 40)
        there = Strided(11, piece_bytes * count)
        await ends.connection.write(ends.local, here, ends.remote.remote, there)
        assert gathered(ends.local.view, here) == gathered(ends.remote.view, there)
        ends.local.view[:] = 0
        await ends.connection.read(ends.local, here, ends.remote.remote, there)
        assert gathered(ends.local.view, here) == gathered(ends.remote.view, there)

    over_pair(kind, test, nbytes=10_000_000)


@pytest.mark.parametrize("kind", KINDS)
def test_many_small_layer_blocks_concurrently_both_ways(kind: str) -> None:
    layers, blocks, layer_block_bytes = 61, 40, 208
    full_block_bytes = layers * layer_block_bytes

    def layer(number: int) -> Strided:
        return Strided(number * layer_block_bytes, layer_block_bytes, blocks, full_block_bytes)

    async def test(ends: Pair) -> None:
        target = ends.initiator.register(np.zeros(REGION_BYTES, np.uint8))
        back = ends.target.register(np.zeros(REGION_BYTES, np.uint8))
        reverse = await ends.target.connect(ends.initiator.address)
        transfers = []
        for number in range(layers):
            at = layer(number)
            transfers += [
                ends.connection.read(target, at, ends.remote.remote, at),
                reverse.read(back, at, ends.local.remote, at),
            ]
        await asyncio.gather(*transfers)
        whole = blocks * full_block_bytes
        assert np.array_equal(target.view[:whole], ends.remote.view[:whole])
        assert np.array_equal(back.view[:whole], ends.local.view[:whole])

    over_pair(kind, test)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "at",
    [
        Strided(REGION_BYTES - 3, 4),
        Strided(0, REGION_BYTES + 1),
        Strided(0, 100, 3, REGION_BYTES // 2),
        Strided(0, 4, 2, 3),
        Strided(-1, 4),
        Strided(0, 0),
        Strided(0, 4, 0),
    ],
)
@pytest.mark.parametrize("operation", ["read", "write"])
def test_outside_of_a_region_is_an_error_on_either_side(kind: str, at: Strided, operation: str) -> None:
    async def test(ends: Pair) -> None:
        before = ends.remote.view.copy(), ends.local.view.copy()
        call = getattr(ends.connection, operation)
        enough = Strided(0, max(1, at.nbytes))
        for sides in ((at, enough), (enough, at)):
            with pytest.raises(TransferError) as caught:
                await call(ends.local, sides[0], ends.remote.remote, sides[1])
            assert caught.value.peer == ends.target.address
            assert caught.value.operation == operation
        assert np.array_equal(before[0], ends.remote.view)
        assert np.array_equal(before[1], ends.local.view)

    over_pair(kind, test)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", ["read", "write"])
def test_the_target_checks_for_itself(kind: str, operation: str) -> None:
    """An initiator that believes the region larger, or guesses keys, gets an error; the rest goes on."""

    async def test(ends: Pair) -> None:
        call = getattr(ends.connection, operation)
        beyond, inside = Strided(REGION_BYTES, 4096), Strided(0, 4096)
        before = ends.local.view.copy(), ends.remote.view.copy()
        offered, larger = ends.remote.remote, 2 * REGION_BYTES
        for remote, reason in (
            (msgspec.structs.replace(offered, length=larger), "beyond"),
            (msgspec.structs.replace(offered, length=larger, key=offered.key ^ 1), "no such region"),
            (RemoteRegion(0, larger), "no such region"),
        ):
            with pytest.raises(TransferError, match=f"{reason}|remote access error") as caught:
                await call(ends.local, inside, remote, beyond)
            assert (caught.value.region, caught.value.offset) == (remote.key, REGION_BYTES)
        assert np.array_equal(before[0], ends.local.view)
        assert np.array_equal(before[1], ends.remote.view)
        await call(ends.local, inside, ends.remote.remote, inside)
        assert np.array_equal(ends.local.view[:4096], ends.remote.view[:4096])

    over_pair(kind, test)


@pytest.mark.parametrize("kind", KINDS)
def test_unequal_sizes_and_deregistered_regions_are_errors(kind: str) -> None:
    async def test(ends: Pair) -> None:
        with pytest.raises(TransferError, match="equal sizes"):
            await ends.connection.read(ends.local, Strided(0, 4), ends.remote.remote, Strided(0, 5))
        ends.target.deregister(ends.remote)
        with pytest.raises(TransferError, match=r"no such region|remote access error"):
            await ends.connection.read(ends.local, Strided(0, 4), ends.remote.remote, Strided(0, 4))
        again = ends.target.register(ends.remote.view)
        ends.initiator.deregister(ends.local)
        with pytest.raises(TransferError, match="not registered"):
            await ends.connection.write(ends.local, Strided(0, 4), again.remote, Strided(0, 4))

    over_pair(kind, test)


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
@pytest.mark.parametrize("operation", ["read", "write"])
@pytest.mark.parametrize("end", ["initiator", "target"])
def test_a_region_deregistered_in_mid_transfer_is_touched_no_more(
    kind: str, operation: str, end: str
) -> None:
    nbytes = 32 << 20
    # In pieces on both sides: a device that has begun a message of its own may finish it.
    at = Strided(0, (1 << 20) - 4096, 32, 1 << 20)

    async def test(ends: Pair) -> None:
        filled = ends.local.view if operation == "read" else ends.remote.view
        filled[:] = 0
        call = getattr(ends.connection, operation)
        transfer = asyncio.create_task(call(ends.local, at, ends.remote.remote, at))
        while not filled[0]:  # noqa: ASYNC110 - memory tells nobody when it changes
            await asyncio.sleep(0)
        if end == "initiator":
            ends.initiator.deregister(ends.local)
        else:
            ends.target.deregister(ends.remote)
        touched = filled.copy()
        with pytest.raises(TransferError, match=ends.target.address):
            await transfer
        await asyncio.sleep(0.05)
        if (operation == "read") == (end == "initiator"):  # the region that is written to
            assert np.array_equal(filled, touched)

    over_pair(kind, test, nbytes=nbytes)


@pytest.mark.parametrize("kind", KINDS)
def test_read_only_and_scattered_buffers_cannot_be_registered(kind: str) -> None:
    async def test(ends: Pair) -> None:
        with pytest.raises(ValueError, match="read-only"):
            ends.target.register(memoryview(b"constant"))
        with pytest.raises((ValueError, BufferError)):
            ends.target.register(np.zeros((8, 8), np.uint8)[:, ::2])

    over_pair(kind, test)


@pytest.mark.parametrize("kind", KINDS)
def test_notifications_follow_the_writes_before_them(kind: str) -> None:
    async def test(ends: Pair) -> None:
        seen: list[tuple[bytes, bool]] = []
        ends.local.view[:] = 9
        ends.remote.view[:] = 0

        def handler(payload: bytes) -> None:
            number = int(payload)
            placed = ends.remote.view[: (number + 1) * 5000]
            seen.append((payload, bool((placed == 9).all())))

        ends.target.on_notification(handler)
        calls = []
        for number in range(100):
            at = Strided(number * 5000, 5000)
            if number % 3:
                calls.append(ends.connection.write(ends.local, at, ends.remote.remote, at, b"%d" % number))
            else:
                calls += [
                    ends.connection.write(ends.local, at, ends.remote.remote, at),
                    ends.connection.notify(b"%d" % number),
                ]
        await asyncio.gather(*calls)
        assert seen == [(b"%d" % number, True) for number in range(100)]

    over_pair(kind, test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_notification_that_cannot_be_taken_is_the_senders_error(kind: str) -> None:
    async def test(ends: Pair) -> None:
        def refuse(payload: bytes) -> None:
            raise KeyError("turn 7")

        await ends.connection.notify(b"x" * (1 << 20))
        assert len(ends.notifications[0]) == 1 << 20
        with pytest.raises(TransferError, match="at most 1048576"):
            await ends.connection.notify(b"x" * ((1 << 20) + 1))
        ends.target.on_notification(refuse)
        with pytest.raises(TransferError, match="turn 7"):
            await ends.connection.notify(b"hello")
        unhandled = await ends.target.connect(ends.initiator.address)
        with pytest.raises(TransferError, match="no notification handler"):
            await unhandled.notify(b"hello")

    over_pair(kind, test)


@pytest.mark.parametrize("kind", KINDS)
def test_connections_are_one_a_peer_and_traffic_class(kind: str) -> None:
    async def test(ends: Pair) -> None:
        low, again, high = await asyncio.gather(
            ends.initiator.connect(ends.target.address),
            ends.initiator.connect(ends.target.address, "low"),
            ends.initiator.connect(ends.target.address, "high"),
        )
        assert low is again is ends.connection
        assert high is not low
        at = Strided(0, 1000)
        await high.read(ends.local, at, ends.remote.remote, at)
        assert np.array_equal(ends.local.view[:1000], ends.remote.view[:1000])

    over_pair(kind, test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_read_touches_its_buffer_no_more(kind: str) -> None:
    async def test(ends: Pair) -> None:
        at = Strided(0, REGION_BYTES)
        reads = [
            asyncio.create_task(ends.connection.read(ends.local, at, ends.remote.remote, at))
            for _ in range(4)
        ]
        await asyncio.sleep(0.03)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        assert any(read.cancelled() for read in reads)
        ends.local.view[:] = 0
        other = ends.initiator.register(np.zeros(1000, np.uint8))
        await ends.connection.read(other, Strided(0, 1000), ends.remote.remote, Strided(0, 1000))
        assert np.array_equal(other.view, ends.remote.view[:1000])
        assert not ends.local.view.any()

    over_pair(kind, test, pace_bytes_per_s=20e6)


@pytest.mark.parametrize("kind", KINDS)
def test_pacing_bounds_the_rate(kind: str) -> None:
    async def test(ends: Pair) -> None:
        began_at = time.monotonic()
        at = Strided(0, 500_000)
        await ends.connection.write(ends.local, at, ends.remote.remote, at)
        await ends.connection.read(ends.local, at, ends.remote.remote, at)
        assert 0.15 <= time.monotonic() - began_at < 1.5

    over_pair(kind, test, pace_bytes_per_s=5e6)


@pytest.mark.parametrize("kind", KINDS)
def test_when_the_peer_closes_everything_fails_naming_it(kind: str) -> None:
    async def test(ends: Pair) -> None:
        at = Strided(0, REGION_BYTES)
        call = ends.connection.read(ends.local, at, ends.remote.remote, at)
        read = asyncio.create_task(call)
        await asyncio.sleep(0.02)
        await ends.target.close()
        with pytest.raises(TransferError) as caught:
            await read
        assert caught.value.peer == ends.target.address
        with pytest.raises(TransferError):
            await ends.connection.notify(b"still there?")
        with pytest.raises(TransferError):
            await ends.initiator.connect(ends.target.address, "high")

    over_pair(kind, test, pace_bytes_per_s=2e6)


@pytest.mark.parametrize("kind", KINDS)
def test_closing_fails_what_is_outstanding_and_leaks_nothing(kind: str) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))

    async def test(ends: Pair) -> None:
        at = Strided(0, REGION_BYTES)
        call = ends.connection.write(ends.local, at, ends.remote.remote, at)
        write = asyncio.create_task(call)
        await asyncio.sleep(0.02)
        await ends.initiator.close()
        with pytest.raises(TransferError, match="closed"):
            await write
        with pytest.raises(TransferError, match="closed"):
            await ends.initiator.connect(ends.target.address, "high")
        assert not ends.local.registered

    over_pair(kind, test, pace_bytes_per_s=2e6)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def rdma_resources() -> Any:
    """Queue pairs, memory regions, completion queues and the like that there are now, by device."""
    shown = subprocess.run(["rdma", "-j", "resource", "show"], check=True, capture_output=True, timeout=10)
    return json.loads(shown.stdout)


@pytest.mark.skipif(not VERBS or shutil.which("rdma") is None, reason="no RDMA ports, or no rdma command")
def test_verbs_leave_nothing_on_the_devices() -> None:
    async def test(ends: Pair) -> None:
        at = Strided(0, REGION_BYTES)
        high = await ends.initiator.connect(ends.target.address, "high")
        reverse = await ends.target.connect(ends.initiator.address)
        await high.read(ends.local, at, ends.remote.remote, at)
        await reverse.write(ends.remote, at, ends.local.remote, at)
        ends.target.deregister(ends.remote)
        with pytest.raises(TransferError):
            await ends.connection.read(ends.local, at, ends.remote.remote, at)
        assert rdma_resources() != before

    before = rdma_resources()
    over_pair("verbs", test)
    gc.collect()
    assert rdma_resources() == before
