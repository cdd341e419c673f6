"""Collectives as an engine makes them, by torch.distributed: NCCL between GPUs, Gloo between CPUs.

What is asked for and what crosses a NIC, for ``bytes_to_peer`` bytes and N hosts:

    dispatch, combine    all-to-all of equal parts          (N - 1) bytes_to_peer out, as much in
    all_gather           of a part of bytes_to_peer each    the same
    reduce_scatter       sum, in BF16, of N such parts      the same

Gloo's own reduce-scatter moves twice as much (an all-reduce, torch 2.13), so there it is the all-to-all that
brings every host its parts, without the sum.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from hosts.bench.burst_grid import Exchanged, run_bursts
from hosts.bench.library_network import MODEL_COMMUNICATION, mark_sockets, network_variables, uses_sockets
from hosts.bench.phases import Burst, BurstCycle, CollectivesObserved, Offer, Phase, TorchGroup
from hosts.compute.torch.device import bind, find_devices, open_lane
from hosts.config import DeviceKind, TransportConfig

_BURST_TIMEOUT_S = 20.0
_GROUP_TIMEOUT_S = 25.0
"""Gloo's own deadline; when NCCL's is over, it ends the process."""
_POLL_S = 50e-6
_LAST = 0x3F
"""Every byte of a burst that is marked as the last: two of them are an ordinary BF16 number. Other bursts are
zeros."""
_T = TypeVar("_T")

# torch 2.13 has new names for these.
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Callable[..., Any] = (
    getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
)


class CollectiveError(Exception):
    """A collective did not happen: which, with how many peers, by what, and why."""


class TorchCollectives:
    """This host's end of the bursts, in a process group of all hosts. See `Traffic`.

    torch is asked for everything in one thread, so nothing that waits for a peer holds up the event loop. A
    burst is marked as the last by its bytes: that costs no message of its own.
    """

    def __init__(self, group: TorchGroup, host: str, cycle: BurstCycle, transport: TransportConfig) -> None:
        self._group, self._host, self._cycle, self._transport = group, host, cycle, transport
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collectives")
        self._store: Any = None

    async def offer(self, hosts: int) -> Offer:
        """A device, room for a part from each host and for each, and a store in which hosts could meet."""
        address = await self._in_thread(self._prepare, hosts)
        return Offer(self._host, "collectives", address)

    async def meet(self, offers: Sequence[Offer]) -> None:
        """Make the group, ranks in the order of the offers, and perform each burst once: so all connections
        are there, and can be marked."""
        await self._in_thread(self._join, offers)

    async def run(self, phase: Phase) -> CollectivesObserved:
        """See `run_bursts`. On a GPU a burst's time is that between two CUDA events around it."""
        if phase.traffic_class != MODEL_COMMUNICATION:
            raise CollectiveError(
                f"{self._group.library}: found traffic class {phase.traffic_class} for a phase, expected "
                f"{MODEL_COMMUNICATION}, which the group was made in"
            )
        return await run_bursts(phase, self._cycle, self._exchange)

    async def close(self) -> None:
        """Leave the group. Peers that are gone are not waited for."""
        await self._in_thread(self._leave)
        self._thread.shutdown()

    async def _exchange(self, burst: Burst, last: bool) -> Exchanged:
        return await self._in_thread(self._perform, burst, last)

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # --- in the thread -------------------------------------------------------------------------

    def _prepare(self, hosts: int) -> str:
        os.environ.update(network_variables(self._group.library, self._transport))
        kind: DeviceKind = "cuda" if self._group.library == "nccl" else "cpu"
        (device,) = find_devices(kind, (self._group.gpu,) if self._group.gpu else (), 1)
        bind(device)
        self._device, self._hosts = device, hosts
        part_bytes = max(burst.bytes_to_peer for burst in self._cycle.bursts)
        room = hosts * (part_bytes + part_bytes % 2)  # of whole BF16 numbers
        self._sent = torch.zeros(room, dtype=torch.uint8, device=device)
        self._received = torch.zeros_like(self._sent)
        self._lane = open_lane(device)
        return self._open_store()

    def _open_store(self) -> str:
        """Listening on the compute NIC only, which by itself a store does not."""
        address = self._transport.bind_address
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, 0), family=family)
        port = listener.getsockname()[1]
        self._store = dist.TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=_GROUP_TIMEOUT_S),
            master_listen_fd=listener.detach(),
        )
        return f"{address}:{port}"

    def _join(self, offers: Sequence[Offer]) -> None:
        rank = next(i for i, offer in enumerate(offers) if offer.host == self._host)
        if rank != 0:
            address, _, port = offers[0].address.rpartition(":")
            timeout = timedelta(seconds=_GROUP_TIMEOUT_S)
            self._store = dist.TCPStore(address, int(port), is_master=False, timeout=timeout)
        dist.init_process_group(
            self._group.library,
            store=self._store,
            rank=rank,
            world_size=len(offers),
            timeout=timedelta(seconds=_GROUP_TIMEOUT_S),
            device_id=self._device if self._device.type == "cuda" else None,
        )
        for burst in self._cycle.bursts:
            self._perform(burst, last=False)
        if uses_sockets(self._group.library, self._transport):
            mark_sockets(self._transport.bind_address, self._transport.classes[MODEL_COMMUNICATION])

    def _perform(self, burst: Burst, last: bool) -> Exchanged:
        """One burst: until this host has its part of every peer's."""
        with self._lane.entered():
            if last:
                self._sent.fill_(_LAST)
            began = self._lane.mark()
            try:
                work, received = self._start(burst)
                work.wait()  # Gloo: until it is done; NCCL: what the lane is given now comes after it
                ended = self._lane.mark()
                _await(work)
            except (RuntimeError, TimeoutError) as error:
                reason, *_ = str(error).splitlines() or [repr(error)]
                raise CollectiveError(
                    f"{burst.collective} of {burst.bytes_to_peer} bytes to each of {self._hosts - 1} peers "
                    f"by {self._group.library}: {reason}"
                ) from error
            ended.wait()
            arrived_at = time.monotonic()
            marked = bool(received.any())
            if last:
                self._sent.zero_()
        return Exchanged(ended.ns_since(began) / 1e9, [arrived_at] * (self._hosts - 1), marked)

    def _start(self, burst: Burst) -> tuple[Any, torch.Tensor]:
        """The work, and of what it receives one byte or number of each peer's part."""
        nbytes, hosts = burst.bytes_to_peer, self._hosts
        if burst.collective == "reduce_scatter" and self._group.library == "nccl":
            values = -(-nbytes // 2)
            mine = self._received.view(torch.bfloat16)[:values]
            parts = self._sent.view(torch.bfloat16)[: hosts * values]
            return _reduce_scatter(mine, parts, async_op=True), mine[-1:]
        everyones = self._received[: hosts * nbytes]
        ends = everyones[nbytes - 1 :: nbytes]
        if burst.collective == "all_gather":
            return _all_gather(everyones, self._sent[:nbytes], async_op=True), ends
        return dist.all_to_all_single(everyones, self._sent[: hosts * nbytes], async_op=True), ends

    def _leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        self._store = None


def _await(work: Any) -> None:
    """Until a burst is over, or `TimeoutError`: a stream that waits for a lost peer can be asked, not
    interrupted."""
    end_at = time.monotonic() + _BURST_TIMEOUT_S
    while not work.is_completed():
        if time.monotonic() > end_at:
            raise TimeoutError(f"not complete within {_BURST_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)
