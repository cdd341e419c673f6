"""Continuous batching of decode engines in step: who is in which step, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process_hosts import FAST

from hosts.compute import Prediction, timed
from hosts.compute.timed import TimedCompute
from hosts.decode_group import DecodeGroup
from workloads.models import find_model


@pytest.fixture(autouse=True)
def steps_without_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step lasts some rounds of the event loop, however busy the machine is."""

    async def sleep_until(at_ns: int) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    monkeypatch.setattr(timed, "sleep_until", sleep_until)


@dataclass(frozen=True)
class NotedPrediction(Prediction):
    """Notes the context lengths of every step: [step, engine, request]."""

    steps: list[list[list[int]]] = field(default_factory=list)
    broken: list[Exception] = field(default_factory=list)

    def decode_step_s(self, contexts: Sequence[Sequence[int]]) -> float:
        self.steps.append([list(batch) for batch in contexts])
        if self.broken:
            raise self.broken.pop()
        return super().decode_step_s(contexts)


def noted() -> NotedPrediction:
    return NotedPrediction(FAST, find_model(FAST.model))


@asynccontextmanager
async def group_of(prediction: Prediction, engines: int = 2) -> AsyncIterator[DecodeGroup]:
    group = DecodeGroup(range(engines), TimedCompute(prediction, engines, 1))
    try:
        yield group
    finally:
        await group.close()


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1000), st.integers(0, 8)), min_size=1, max_size=6),
)
def test_every_request_gets_its_tokens_one_a_step(requests: list[tuple[int, int, int]]) -> None:
    compute = noted()

    async def run() -> None:
        async with group_of(compute, engines=3) as group:
            streams = [group.start(*request) for request in requests]
            for stream in streams:
                await stream.until(stream.steps)
            assert [s.done for s in streams] == [steps for _, _, steps in requests]

    asyncio.run(run())
    for number, step in enumerate(compute.steps):
        for rank in range(3):
            running = [c + number for e, c, steps in requests if e == rank and number < steps]
            assert step[rank] == running
    assert len(compute.steps) == max(steps for _, _, steps in requests)


def test_a_request_joins_at_the_next_step_and_leaves_with_its_last_token() -> None:
    compute = noted()

    async def run() -> None:
        async with group_of(compute) as group:
            first = group.start(0, 100, 5)
            await first.until(2)
            second = group.start(1, 200, 2)
            await asyncio.gather(first.until(5), second.until(2))

    asyncio.run(run())
    assert compute.steps == [
        [[100], []],
        [[101], []],
        # The third step had begun when the second request came.
        [[102], []],
        [[103], [200]],
        [[104], [201]],
    ]


def test_tokens_are_awaited_in_any_order() -> None:
    async def run() -> None:
        async with group_of(noted()) as group:
            stream = group.start(0, 0, 6)
            reached: list[tuple[int, int]] = []

            async def wait(step: int) -> None:
                await stream.until(step)
                reached.append((step, stream.done))

            await asyncio.gather(*map(wait, (4, 1, 6, 4, 0)))
            assert reached == [(0, 0), (1, 1), (4, 4), (4, 4), (6, 6)]

    asyncio.run(run())


def test_the_engines_sleep_between_requests_and_wake_again() -> None:
    compute = noted()

    async def run() -> None:
        async with group_of(compute) as group:
            for context in (10, 20):
                await group.start(1, context, 1).until(1)
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert compute.steps == [[[], [10]], [[], [20]]]


def test_a_request_given_up_is_in_no_further_step() -> None:
    compute = noted()

    async def run() -> None:
        async with group_of(compute) as group:
            stays, goes = group.start(0, 0, 4), group.start(0, 500, 100)
            await goes.until(1)
            group.stop(0, goes)
            group.stop(0, goes)  # a request that is not there any more is no error
            await stays.until(4)
            assert goes.done == 2  # the second step had begun

    asyncio.run(run())
    assert [step[0] for step in compute.steps] == [[0, 500], [1, 501], [2], [3]]


def test_a_step_that_fails_fails_all_requests_and_no_later_one() -> None:
    compute = noted()

    async def run() -> None:
        async with group_of(compute) as group:
            streams = [group.start(0, 1, 5), group.start(1, 2, 5)]
            waiting = [asyncio.create_task(stream.until(step)) for stream in streams for step in (3, 5)]
            await streams[0].until(1)
            compute.broken.append(ArithmeticError("no such step"))
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(outcome, ArithmeticError)
            for rank, stream in enumerate(streams):
                with pytest.raises(ArithmeticError, match="no such step"):
                    await stream.until(5)
                group.stop(rank, stream)
            later = group.start(0, 7, 2)
            await later.until(2)
            assert later.failed is None

    asyncio.run(run())
    assert compute.steps[-2:] == [[[7], []], [[8], []]]
