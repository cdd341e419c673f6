"""Bursts by torch.distributed on a host that is alone: which tensors they are, how the last one is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")

import torch
import torch.distributed as dist

from hosts.bench import torch_collectives
from hosts.bench.phases import Burst, BurstCycle, TorchGroup
from hosts.bench.torch_collectives import CollectiveError, TorchCollectives
from hosts.config import TransportConfig

CYCLE = BurstCycle((Burst("reduce_scatter", 7, 0.1), Burst("all_gather", 4, 0.1), Burst("combine", 1, 0.1)))


class Work:
    """What torch gives for a collective under way."""

    def __init__(self, complete: bool = True) -> None:
        self._complete = complete

    def wait(self) -> None:
        pass

    def is_completed(self) -> bool:
        return self._complete


def alone(test: Callable[[TorchCollectives], Awaitable[None]]) -> None:
    """With a group of one."""

    async def run() -> None:
        collectives = TorchCollectives(TorchGroup("gloo"), "p0", CYCLE, TransportConfig("tcp"))
        try:
            await collectives.meet([await collectives.offer(1)])
            await test(collectives)
        finally:
            await collectives.close()

    asyncio.run(run())


@pytest.mark.parametrize("burst", CYCLE.bursts, ids=lambda burst: str(burst.collective))
def test_a_burst_is_the_last_when_it_is_marked_and_the_next_is_not(burst: Burst) -> None:
    async def test(collectives: TorchCollectives) -> None:
        seen = [(await collectives._exchange(burst, last)).last for last in (False, True, False)]
        assert seen == [False, True, False]

    alone(test)


@pytest.mark.parametrize("hosts", [2, 3, 64])
def test_nccls_reduce_scatter_sums_whole_values_and_marks_stay_marks(
    monkeypatch: pytest.MonkeyPatch, hosts: int
) -> None:
    """7 bytes are 4 BF16 values of each host; all of them marked are the largest sum."""

    def reduce_scatter(mine: torch.Tensor, parts: torch.Tensor, async_op: bool) -> Work:
        assert async_op
        assert mine.dtype == parts.dtype == torch.bfloat16
        assert (mine.shape, parts.shape) == ((4,), (4 * hosts,))
        mine.copy_(parts.view(hosts, 4).sum(0))
        assert torch.isfinite(mine).all()
        return Work()

    async def test(collectives: TorchCollectives) -> None:
        collectives._group, collectives._hosts = TorchGroup("nccl"), hosts
        collectives._sent = torch.zeros(8 * hosts, dtype=torch.uint8)
        collectives._received = torch.zeros_like(collectives._sent)
        monkeypatch.setattr(torch_collectives, "_reduce_scatter", reduce_scatter)
        seen = [(await collectives._exchange(CYCLE.bursts[0], last)).last for last in (False, True, False)]
        assert seen == [False, True, False]

    alone(test)


def test_a_collective_that_is_never_complete_fails_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(collectives: TorchCollectives) -> None:
        monkeypatch.setattr(torch_collectives, "_BURST_TIMEOUT_S", 0.05)
        monkeypatch.setattr(dist, "all_to_all_single", lambda *_, async_op: Work(complete=False))
        with pytest.raises(
            CollectiveError, match="combine of 1 bytes to each of 0 peers by gloo: not complete"
        ):
            await collectives._exchange(CYCLE.bursts[2], False)

    alone(test)


def test_a_library_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, async_op: bool) -> Work:
        raise RuntimeError("Connection closed by peer [10.0.0.3]:1234\nmore")

    async def test(collectives: TorchCollectives) -> None:
        monkeypatch.setattr(dist, "all_to_all_single", fails)
        with pytest.raises(CollectiveError, match=r"by gloo: Connection closed by peer \[10.0.0.3\]:1234$"):
            await collectives._exchange(CYCLE.bursts[2], False)

    alone(test)
