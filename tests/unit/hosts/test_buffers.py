"""The buffer arena: no overlap, nothing lost, first come first served."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.buffers import Allocation, ArenaError, BufferArena

CAPACITY_BYTES = 4096


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "free", "cancel"]), st.integers(1, CAPACITY_BYTES)), max_size=60
    ),
    alignment=st.sampled_from([1, 64, 512]),
    slack_bytes=st.sampled_from([0, 1024, CAPACITY_BYTES]),
)
def test_any_history_keeps_parts_apart_and_ends_in_one_hole(
    steps: list[tuple[str, int]], alignment: int, slack_bytes: int
) -> None:
    async def run() -> None:
        arena = BufferArena(CAPACITY_BYTES, alignment, slack_bytes)
        asked: list[asyncio.Task[Allocation]] = []
        for step, number in steps:
            granted = [task for task in asked if task.done()]
            if step == "ask":
                asked.append(asyncio.create_task(arena.allocate(number)))
            elif step == "free" and granted:
                task = granted[number % len(granted)]
                asked.remove(task)
                arena.free(task.result())
            elif step == "cancel" and len(granted) < len(asked):
                task = asked[len(granted) + number % (len(asked) - len(granted))]
                task.cancel()
                asked.remove(task)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            done = [task.done() for task in asked]
            assert done == sorted(done, reverse=True), "a later request was served before an earlier one"
            _assert_sound(arena, [task.result() for task in asked if task.done()], alignment)
            waiting = [task for task in asked if not task.done()]
            assert not waiting or not arena.holes or arena.free_bytes < CAPACITY_BYTES
        while asked:
            arena.free(await asked.pop(0))
        assert arena.holes == (Allocation(0, CAPACITY_BYTES + slack_bytes),)

    asyncio.run(run())


def _assert_sound(arena: BufferArena, held: list[Allocation], alignment: int) -> None:
    given_bytes = sum(-(-part.nbytes // alignment) * alignment for part in held)
    assert arena.free_bytes == CAPACITY_BYTES - given_bytes >= 0
    used = np.zeros(arena.view.nbytes, int)
    for part in (*held, *arena.holes):
        assert part.offset % alignment == 0
        used[part.offset : part.offset + part.nbytes] += 1
    assert used.max() <= 1
    ends = {part.offset + part.nbytes for part in arena.holes}
    assert not ends & {part.offset for part in arena.holes}, "two holes touch"


def test_a_large_request_is_not_passed_by_small_ones() -> None:
    async def run() -> None:
        arena = BufferArena(CAPACITY_BYTES, 1)
        first, second = await arena.allocate(2000), await arena.allocate(1000)
        large = asyncio.create_task(arena.allocate(3500))
        await asyncio.sleep(0)
        small = asyncio.create_task(arena.allocate(10))
        await asyncio.sleep(0)
        arena.free(second)
        await asyncio.sleep(0)
        assert not large.done()
        assert not small.done()
        arena.free(first)
        assert (await large).nbytes == 3500
        assert (await small).nbytes == 10

    asyncio.run(run())


@pytest.mark.parametrize(("slack_bytes", "given"), [(0, False), (1024, True)])
def test_slack_makes_up_for_holes_and_is_not_given_out(slack_bytes: int, given: bool) -> None:
    async def run() -> None:
        arena = BufferArena(CAPACITY_BYTES, 1, slack_bytes)
        parts = [await arena.allocate(CAPACITY_BYTES // 8) for _ in range(8)]
        for part in parts[::2]:
            arena.free(part)
        two_holes = asyncio.create_task(arena.allocate(CAPACITY_BYTES // 4))
        all_there_is = asyncio.create_task(arena.allocate(CAPACITY_BYTES // 4 + 1))
        await asyncio.sleep(0)
        assert two_holes.done() is given
        assert not all_there_is.done()
        for task in (two_holes, all_there_is):
            task.cancel()

    asyncio.run(run())


def test_cancelling_the_head_lets_the_next_go() -> None:
    async def run() -> None:
        arena = BufferArena(CAPACITY_BYTES, 1)
        await arena.allocate(4000)
        large, small = (asyncio.create_task(arena.allocate(nbytes)) for nbytes in (3000, 50))
        await asyncio.sleep(0)
        large.cancel()
        assert (await small).nbytes == 50

    asyncio.run(run())


def test_a_part_granted_to_a_cancelled_request_is_free_again() -> None:
    async def run() -> None:
        arena = BufferArena(CAPACITY_BYTES, 1)
        whole = await arena.allocate(CAPACITY_BYTES)
        waiting = asyncio.create_task(arena.allocate(100))
        await asyncio.sleep(0)
        arena.free(whole)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert arena.free_bytes == CAPACITY_BYTES

    asyncio.run(run())


def test_what_can_never_be_given_or_was_given_back_is_an_error() -> None:
    async def run() -> None:
        arena = BufferArena(CAPACITY_BYTES, 4096)
        for nbytes in (CAPACITY_BYTES + 1, 0, -1):
            with pytest.raises(ArenaError, match="4096"):
                await arena.allocate(nbytes)
        part = await arena.allocate(1)
        arena.free(part)
        with pytest.raises(ArenaError, match="freed twice"):
            arena.free(part)
        assert arena.view.ctypes.data % 4096 == 0

    asyncio.run(run())
    for buffer_bytes, alignment in ((0, 1), (1, 0), (1, 3)):
        with pytest.raises(ArenaError, match="power of two"):
            BufferArena(buffer_bytes, alignment)
