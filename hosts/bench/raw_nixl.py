"""NIXL alone, without our transport: its own reads or writes of whole blocks between two processes.

    python -m hosts.bench.raw_nixl ADDRESS BYTES

is the target: it prints a `RawOffer` as JSON, and when its standard input ends, it does. What our `nixl`
transport is measured against, and what `tcp` is: NIXL's own read is emulated by UCX where there is no RDMA.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable

import msgspec
import numpy as np

from hosts.bench.load import Observed
from hosts.bench.transfers import Transfers
from hosts.buffers import BufferArena
from hosts.config import default_classes
from hosts.nixl_agent import POLL_S, Operation, Transfer, rows
from hosts.transport.nixl.ucx import open_agent

_PAGE_BYTES = 4096
_DEVICE = 1


class RawOffer(msgspec.Struct, frozen=True):
    """The target's agent and memory, for the initiator's to load, and where the memory begins."""

    agent: bytes
    memory: bytes
    address: int


def initiate(
    bind_address: str,
    offer: RawOffer,
    transfers: Transfers,
    target_cpu_s: Callable[[], float],
    warm_up_s: float = 0.5,
) -> Observed:
    """``transfers.depth`` blocks under way at once; batches are not made."""
    agent = open_agent(bind_address, default_classes()[transfers.traffic_class])
    try:
        block = transfers.block_bytes
        arena = BufferArena(block * transfers.depth, _PAGE_BYTES, pages="transparent").view
        agent.register("DRAM", rows((arena.ctypes.data, arena.nbytes, _DEVICE)))
        peer = agent.load(offer.agent)
        agent.load(offer.memory)
        operation: Operation = "READ" if transfers.direction == "read" else "WRITE"

        def begin(worker: int) -> tuple[Transfer, float]:
            here = rows((arena.ctypes.data + worker * block, block, _DEVICE))
            there = rows((offer.address + worker * block, block, _DEVICE))
            return agent.post(operation, here, there, peer), time.monotonic()

        return _loop(begin, transfers, lambda: time.process_time() + target_cpu_s(), warm_up_s)
    finally:
        agent.close()


def _loop(
    begin: Callable[[int], tuple[Transfer, float]],
    transfers: Transfers,
    cpu_clock_s: Callable[[], float],
    warm_up_s: float,
) -> Observed:
    counts_from = time.monotonic() + warm_up_s
    ends_at = counts_from + transfers.seconds
    under_way = [begin(worker) for worker in range(transfers.depth)]
    latencies: list[float] = []
    cpu_s: float | None = None
    while (now_at := time.monotonic()) < ends_at:
        if cpu_s is None and now_at >= counts_from:
            cpu_s = cpu_clock_s()
        done = [worker for worker, (transfer, _) in enumerate(under_way) if transfer.done()]
        for worker in done:
            transfer, began_at = under_way[worker]
            transfer.release()
            if counts_from <= (end_at := time.monotonic()) <= ends_at:
                latencies.append(end_at - began_at)
            under_way[worker] = begin(worker)
        if not done:
            time.sleep(POLL_S)
    used_s = cpu_clock_s() - cpu_s if cpu_s is not None else 0.0
    while not all(transfer.done() for transfer, _ in under_way):  # or UCX would abort the target
        time.sleep(POLL_S)
    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (float("nan"),) * 2
    number = len(latencies)
    return Observed(transfers.seconds, number, number * transfers.block_bytes, float(p50), float(p99), used_s)


def _serve(bind_address: str, nbytes: int) -> None:
    agent = open_agent(bind_address, default_classes()["low"])
    try:
        arena = BufferArena(nbytes, _PAGE_BYTES, pages="transparent").view
        registration = agent.register("DRAM", rows((arena.ctypes.data, arena.nbytes, _DEVICE)))
        offer = RawOffer(agent.description(), agent.description(registration), arena.ctypes.data)
        sys.stdout.write(msgspec.json.encode(offer).decode() + "\n")
        sys.stdout.flush()
        while not select.select([sys.stdin], [], [], POLL_S)[0]:
            agent.messages()
    finally:
        agent.close()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
