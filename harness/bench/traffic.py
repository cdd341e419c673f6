"""The traffic processes of an isolation benchmark, from the control node: started, introduced to each other,
told a phase at a time.

    async with traffic(cluster, loads, transports) as processes:
        observed = await processes.run({"collectives": "high", "kv": "low"}, warm_up_s=1.0, seconds=4.0)

They dial the control node over the management network, so nothing of this is on the links that are measured.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import psutil

from harness.cluster import Cluster
from harness.deployment import Deployment, first_error
from harness.host_error import HostError
from harness.launchers.local import LocalProcess
from hosts.bench.phases import (
    LINE_BYTES,
    BurstCycle,
    CollectivesObserved,
    Failed,
    FromHost,
    KvObserved,
    KvTransfers,
    Lines,
    Load,
    Offer,
    Peers,
    Phase,
    PhaseClock,
    TrafficConfig,
    until,
)
from hosts.config import TrafficClass, TransportConfig

_ATTACH_TIMEOUT_S = 30.0
_LEAD_S = 0.3
"""From telling a phase to its begin: the processes connect meanwhile."""
_ANSWER_TIMEOUT_S = 30.0
_T = TypeVar("_T")


class Observation(msgspec.Struct, frozen=True):
    """One phase, by host; ``cpu_busy`` is the share of the control node's machine, all cores, that was not
    idle while it counted: in an emulated cluster, of all there is."""

    collectives: dict[str, CollectivesObserved]
    kv: dict[str, KvObserved]
    cpu_busy: float


class TrafficProcesses:
    """Processes that are ready; one phase at a time."""

    def __init__(self) -> None:
        self._watch = Deployment()
        self._streams: list[Lines[FromHost]] = []
        self._attached: asyncio.Queue[Lines[FromHost]] = asyncio.Queue()
        self._lines: dict[tuple[str, Load], Lines[FromHost]] = {}

    async def run(
        self,
        classes: Mapping[Load, TrafficClass],
        warm_up_s: float,
        seconds: float,
        cool_down_s: float,
    ) -> Observation:
        """Loads in their classes, all at the same time; HostError names who failed."""
        begin_at = time.time() + _LEAD_S
        phases: dict[Load, Phase] = {
            load: Phase(traffic_class, begin_at, warm_up_s, seconds, cool_down_s)
            for load, traffic_class in classes.items()
        }
        return await self._watch.guard(self._run(phases))

    async def _run(self, phases: Mapping[Load, Phase]) -> Observation:
        at_work = [key for key in self._lines if key[1] in phases]
        for key in at_work:
            await self._lines[key].send(phases[key[1]])
        phase = next(iter(phases.values()))
        timeout_s = _LEAD_S + phase.duration_s + _ANSWER_TIMEOUT_S
        busy = asyncio.create_task(_cpu_busy(PhaseClock(phase)))
        try:
            answers = await _all({key: self._answer(key, timeout_s) for key in at_work})
            cpu_busy = await busy
        finally:
            busy.cancel()
        return Observation(
            {host: a for (host, _), a in answers.items() if isinstance(a, CollectivesObserved)},
            {host: a for (host, _), a in answers.items() if isinstance(a, KvObserved)},
            cpu_busy,
        )

    async def _answer(self, key: tuple[str, Load], timeout_s: float) -> FromHost:
        host, load = key
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._lines[key].receive()
        except TimeoutError:
            raise HostError(host, f"its {load} traffic gave no answer in {timeout_s:.0f} s") from None
        if message is None:
            raise HostError(host, f"its {load} traffic process has closed its stream")
        return _checked(message)

    async def _introduce(self, processes: int) -> None:
        """Wait until all have dialled in, and tell those of each load of each other."""
        try:
            async with asyncio.timeout(_ATTACH_TIMEOUT_S):
                offers = [await self._offer() for _ in range(processes)]
        except TimeoutError:
            missing = f"{processes - len(self._lines)} of {processes} traffic processes"
            raise HostError("control", f"{missing} did not attach in {_ATTACH_TIMEOUT_S:g} s") from None
        offers.sort(key=lambda offer: offer.host)
        for (_, load), lines in self._lines.items():
            await lines.send(Peers([offer for offer in offers if offer.load == load]))
        await _all({key: self._answer(key, _ATTACH_TIMEOUT_S) for key in self._lines})

    async def _offer(self) -> Offer:
        """The next process's. One that ends before it has made any is watched for elsewhere."""
        while True:
            lines = await self._attached.get()
            message = await lines.receive()
            if message is not None:
                offer = _checked(message)
                assert isinstance(offer, Offer), "what a process says first"
                self._lines[offer.host, offer.load] = lines
                return offer

    def _attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams.append(Lines(reader, writer, FromHost))  # type: ignore[arg-type]
        self._attached.put_nowait(self._streams[-1])

    async def _close(self) -> None:
        for lines in self._streams:
            await lines.close()


@asynccontextmanager
async def traffic(
    cluster: Cluster,
    loads: Mapping[Load, BurstCycle | KvTransfers],
    transports: Mapping[str, TransportConfig],
) -> AsyncIterator[TrafficProcesses]:
    """A process for each load on each host of ``transports``; the control node's namespace has been entered.

    They end when their stream does, or at the latest with the cluster.
    """
    processes = TrafficProcesses()
    server = await asyncio.start_server(processes._attach, cluster.control_address, 0, limit=LINE_BYTES)
    try:
        control = f"{cluster.control_address}:{server.sockets[0].getsockname()[1]}"
        for host, transport in transports.items():
            for load, what in loads.items():
                config = TrafficConfig(host, len(transports), control, transport, what)
                argv = [sys.executable, "-m", "hosts.bench.traffic", msgspec.json.encode(config).decode()]
                log = cluster.scratch / f"{host}-{load}.log"
                started = LocalProcess(cluster.spawn(host, argv, log))
                processes._watch.watch(host, f"{load} traffic", started)
        await processes._watch.guard(processes._introduce(len(transports) * len(loads)))
        yield processes
    finally:
        server.close()
        await processes._close()
        await server.wait_closed()


def _checked(message: FromHost) -> FromHost:
    if isinstance(message, Failed):
        raise HostError(message.host, f"its {message.load} traffic failed: {message.reason}")
    return message


async def _all(work: Mapping[Any, Coroutine[Any, Any, _T]]) -> dict[Any, _T]:
    """All results; the first error ends the others and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {key: group.create_task(coroutine) for key, coroutine in work.items()}
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return {key: task.result() for key, task in tasks.items()}


async def _cpu_busy(clock: PhaseClock) -> float:
    await until(clock.counts_from)
    before = psutil.cpu_times()
    await until(clock.counts_until)
    spent = [now - then for now, then in zip(psutil.cpu_times(), before, strict=True)]
    times = dict(zip(before._fields, spent, strict=True))
    # guest time is part of user time already (proc(5)).
    total = sum(spent) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    return 1 - (times["idle"] + times.get("iowait", 0.0)) / total
