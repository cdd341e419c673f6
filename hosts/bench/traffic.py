"""A process that loads the network of one host, phase by phase, as the control node says.

    python -m hosts.bench.traffic < CONFIG

CONFIG is a `TrafficConfig` as JSON. Collectives and KV are processes of their own, as a serving engine's
communication library and its KV engine are; neither waits for the other's event loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack, suppress

import msgspec
import psutil

from hosts.bench.collectives import Collectives
from hosts.bench.kv_load import KvLoad
from hosts.bench.phases import (
    LINE_BYTES,
    BurstCycle,
    Done,
    Failed,
    FromControl,
    Lines,
    Peers,
    Phase,
    PhaseClock,
    Ready,
    TorchGroup,
    Traffic,
    TrafficConfig,
    until,
)
from hosts.claim import claimed
from hosts.control_stream import notice_silence
from hosts.credentials import CONTROL_NAME, client_context
from hosts.transport import open_transport

_DIAL_TIMEOUT_S = 30.0


async def _serve(config: TrafficConfig) -> None:
    """Dial the control node; offer, meet the peers, then a phase at a time; say so if anything fails."""
    async with AsyncExitStack() as resources:
        control = await _dial(config)
        resources.push_async_callback(control.close)
        try:
            await _obey(control, config, await _open(config, resources))
        except Exception as error:
            first = _first(error)
            reason = f"{type(first).__name__}: {first}"
            await control.send(Failed(config.credentials.host, config.load, reason))
            await control.receive()  # the control node hears it before it sees this process end


async def _dial(config: TrafficConfig) -> Lines[FromControl]:
    host, _, port = config.credentials.control.rpartition(":")
    async with asyncio.timeout(_DIAL_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(
            host.strip("[]"),
            int(port),
            ssl=client_context(config.credentials),
            server_hostname=CONTROL_NAME,
            limit=LINE_BYTES,
        )
    notice_silence(writer)
    return Lines(reader, writer, FromControl)  # type: ignore[arg-type]


async def _open(config: TrafficConfig, resources: AsyncExitStack) -> Traffic:
    """What the config says, to be closed with ``resources``."""
    host, what = config.credentials.host, config.traffic
    if config.claim is not None:
        await resources.enter_async_context(claimed(config.claim))
    if isinstance(what, BurstCycle) and config.group is not None:
        return await _open_group(config, config.group, what, resources)
    transport = await open_transport(config.transport)
    resources.push_async_callback(transport.close)
    return (
        Collectives(transport, host, what) if isinstance(what, BurstCycle) else KvLoad(transport, host, what)
    )


async def _open_group(
    config: TrafficConfig, group: TorchGroup, cycle: BurstCycle, resources: AsyncExitStack
) -> Traffic:
    from hosts.compute.torch.importing import require_torch

    require_torch(group.python)
    from hosts.bench.torch_collectives import TorchCollectives

    collectives = TorchCollectives(group, config.credentials.host, cycle, config.transport)
    resources.push_async_callback(collectives.close)
    return collectives


async def _obey(control: Lines[FromControl], config: TrafficConfig, traffic: Traffic) -> None:
    await control.send(await traffic.offer(config.hosts))
    while (message := await control.receive()) is not None:
        match message:
            case Peers(offers):
                await traffic.meet(offers)
                await control.send(Ready())
            case Phase():
                async with asyncio.TaskGroup() as group:
                    busy = group.create_task(_cpu_busy(PhaseClock(message)))
                    observed = await traffic.run(message)
                await control.send(Done(observed, busy.result()))


async def _cpu_busy(clock: PhaseClock) -> float:
    """See `Done`."""
    await until(clock.counts_from)
    before = psutil.cpu_times()
    await until(clock.counts_until)
    spent = [now - then for now, then in zip(psutil.cpu_times(), before, strict=True)]
    times = dict(zip(before._fields, spent, strict=True))
    # guest time is part of user time already (proc(5)).
    total = sum(spent) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    return 1 - (times["idle"] + times.get("iowait", 0.0)) / total


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _go_first() -> None:
    """Before all ordinary processes of the machine, where that is allowed, both loads alike (sched(7)): on a
    real host NICs and GPUs move these bytes, and they do not wait for a CPU that emulated hosts share."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def main() -> None:
    """Entry point of the process."""
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=TrafficConfig)
    if config.first:
        _go_first()
    asyncio.run(_serve(config))


if __name__ == "__main__":
    main()
