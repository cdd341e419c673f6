"""The HBM budget: never overdrawn, first come first served, nothing lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.budget import BudgetError, FifoBudget

CAPACITY = 100


async def settle() -> None:
    """Let every task run until all of them wait."""
    for _ in range(5):
        await asyncio.sleep(0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "give back", "cancel"]), st.integers(1, CAPACITY)), max_size=60
    )
)
def test_any_history_is_served_in_order_and_ends_with_a_full_budget(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        budget = FifoBudget(CAPACITY)
        asked: list[tuple[int, asyncio.Task[None]]] = []
        for step, number in steps:
            granted = [entry for entry in asked if entry[1].done()]
            waiting = asked[len(granted) :]
            if step == "take":
                asked.append((number, asyncio.create_task(budget.take(number))))
            elif step == "give back" and granted:
                entry = granted[number % len(granted)]
                asked.remove(entry)
                budget.give_back(entry[0])
            elif step == "cancel" and waiting:
                entry = waiting[number % len(waiting)]
                entry[1].cancel()
                asked.remove(entry)
            await settle()
            taken = [amount for amount, task in asked if task.done()]
            assert [amount for amount, _ in asked[: len(taken)]] == taken, "a later one was served before"
            assert budget.free == CAPACITY - sum(taken) >= 0
            if len(taken) < len(asked):
                assert asked[len(taken)][0] > budget.free, "the first in the queue waits although it fits"
        while asked:
            amount, task = asked.pop(0)
            await task
            budget.give_back(amount)
        assert budget.free == CAPACITY

    asyncio.run(run())


@pytest.mark.parametrize("granted_first", [True, False])
def test_a_grant_that_meets_its_cancellation_goes_to_the_next(granted_first: bool) -> None:
    async def run() -> None:
        budget = FifoBudget(CAPACITY)
        await budget.take(CAPACITY)
        first = asyncio.create_task(budget.take(60))
        second = asyncio.create_task(budget.take(70))
        await settle()
        if granted_first:
            budget.give_back(CAPACITY)
            first.cancel()
        else:
            first.cancel()
            budget.give_back(CAPACITY)
        await asyncio.wait_for(second, 1)
        assert first.cancelled()
        assert budget.free == 30

    asyncio.run(run())


def test_what_could_never_be_given_is_refused_at_once() -> None:
    async def run() -> None:
        budget = FifoBudget(CAPACITY)
        with pytest.raises(BudgetError, match="101 bytes of HBM asked of 100"):
            await budget.take(101)
        await budget.take(CAPACITY)
        assert budget.free == 0

    asyncio.run(run())
