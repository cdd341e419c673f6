"""A process that loads the network of one host, phase by phase, as the control node says.

    python -m hosts.bench.traffic CONFIG

CONFIG is a `TrafficConfig` as JSON. Collectives and KV are processes of their own, as a serving engine's
communication library and its KV engine are; neither waits for the other's event loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

import msgspec

from hosts.bench.collectives import Collectives
from hosts.bench.kv_load import KvLoad
from hosts.bench.phases import (
    LINE_BYTES,
    BurstCycle,
    Failed,
    FromControl,
    Lines,
    Offer,
    Peers,
    Phase,
    Ready,
    TrafficConfig,
)
from hosts.transport import Transport, open_transport


async def _serve(config: TrafficConfig) -> None:
    host, _, port = config.control.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=LINE_BYTES)
    control: Lines[FromControl] = Lines(reader, writer, FromControl)  # type: ignore[arg-type]
    try:
        transport = await open_transport(config.transport)
        try:
            await _obey(control, config, transport)
        finally:
            await transport.close()
    except Exception as error:
        first = _first(error)
        await control.send(Failed(config.host, config.load, f"{type(first).__name__}: {first}"))
        await control.receive()  # the control node hears it before it sees this process end
    finally:
        await control.close()


async def _obey(control: Lines[FromControl], config: TrafficConfig, transport: Transport) -> None:
    """Offer, meet the peers, then a phase at a time until the control node has no more."""
    traffic = (
        Collectives(transport, config.host, config.traffic)
        if isinstance(config.traffic, BurstCycle)
        else KvLoad(transport, config.host, config.traffic)
    )
    region = traffic.offer(config.hosts)
    await control.send(Offer(config.host, config.load, transport.address, region.remote))
    while (message := await control.receive()) is not None:
        match message:
            case Peers(offers):
                traffic.meet(offers)
                await control.send(Ready())
            case Phase():
                await control.send(await traffic.run(message))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _go_first() -> None:
    """Before all ordinary processes of the machine, where that is allowed, both loads alike (sched(7)): on a
    real host NICs and GPUs move these bytes, and they do not wait for a CPU."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


if __name__ == "__main__":
    _go_first()
    asyncio.run(_serve(msgspec.json.decode(sys.argv[1], type=TrafficConfig)))
