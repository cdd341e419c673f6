"""A deployment whose agents are scripts: real streams' ends and real frames, no processes and no NICs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from harness.control import AgentHandle
from harness.deployment import Deployment
from hosts.protocol import (
    PROTOCOL_VERSION,
    BeginRepetition,
    Done,
    EndRepetition,
    Envelope,
    Failed,
    Fetch,
    FirstToken,
    Hello,
    HostSamples,
    Message,
    ReadDone,
    RepetitionReport,
    TurnDone,
    TurnOrder,
)

_FETCH_INTERVAL_S = 0.001
Serve = Callable[["Hosts", str, TurnOrder], AsyncIterator[tuple[str, Message]]]
"""What hosts report about an order, and which: (host, event)."""


def turn_done(turn_id: int, decode_ns: int = 0) -> TurnDone:
    return TurnDone(
        turn_id=turn_id,
        allocate_ns=0,
        read_ns=0,
        hbm_wait_ns=0,
        engine_wait_ns=0,
        compute_ns=0,
        transfer_ns=0,
        chunks=1,
        hbm_load_ns=0,
        second_token_ns=0,
        decode_ns=decode_ns,
        persist_ns=0,
        persisted_bytes=0,
        verified_blocks=0,
        mismatched_blocks=0,
        transfers=(),
    )


async def well(hosts: Hosts, host: str, order: TurnOrder) -> AsyncIterator[tuple[str, Message]]:
    """As it should be: both reads, the first token, the last, ``hosts.service_s`` in all."""
    for reader, reads in ((host, order.decode_reads), (order.prefill_host, order.prefill_reads)):
        if reads:
            yield reader, ReadDone(order.turn_id)
    await asyncio.sleep(hosts.service_s / 2)
    yield host, FirstToken(order.turn_id)
    await asyncio.sleep(hosts.service_s / 2)
    yield host, turn_done(order.turn_id, int(hosts.service_s / 2 * 1e9))


def through_the_wire(envelope: Envelope) -> Envelope:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(envelope), type=Envelope)


class ScriptedLine:
    """The control node's end of a line: what it posts is in ``sent``."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Envelope] = asyncio.Queue()

    def post(self, envelope: Envelope) -> None:
        self.sent.put_nowait(through_the_wire(envelope))

    def close(self) -> None:
        pass


@dataclass(eq=False)
class Hosts:
    """``orders`` is what the decode hosts were told, with the second (monotonic) at which they were.

    ``asking`` hosts fetch all the time. ``failing`` ones refuse to end a repetition.
    """

    names: tuple[str, ...] = ("p0", "d0")
    serve: Serve = well
    service_s: float = 0.002
    asking: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    orders: list[tuple[float, str, TurnOrder]] = field(default_factory=list)
    began: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    layerwise: set[bool] = field(default_factory=set)
    deployment: Deployment = field(default_factory=Deployment)
    _lines: dict[str, ScriptedLine] = field(default_factory=dict)

    @contextmanager
    def attached(self) -> Iterator[Deployment]:
        """The deployment, while the scripts run."""
        deployment = self.deployment
        for host in self.names:
            hello = Hello(host, PROTOCOL_VERSION, {})
            line: Any = ScriptedLine()
            self._lines[host] = line
            deployment.agents[host] = AgentHandle(hello, line, lambda h, event: deployment.on_event(h, event))
        tasks = [asyncio.create_task(self._agent(host)) for host in self.names]
        tasks += [asyncio.create_task(self._leader(host)) for host in self.names]
        try:
            yield deployment
        finally:
            for task in tasks:
                task.cancel()

    def report(self, host: str, event: Message) -> None:
        """``host`` says something by itself."""
        self._deliver(host, 0, event)

    def fetch_once(self) -> None:
        """Every host asks for work once."""
        for host in self.names:
            self.report(host, Fetch())

    def lose(self, host: str) -> None:
        """The host's stream breaks."""
        self.deployment.agents[host].disconnect("its control stream broke")

    def _deliver(self, host: str, id_: int, body: Message) -> None:
        self.deployment.agents[host].deliver(through_the_wire(Envelope(id_, body)))

    async def _leader(self, host: str) -> None:
        while True:
            await asyncio.sleep(_FETCH_INTERVAL_S)
            if host in self.asking and host in self.began and host not in self.ended:
                self.report(host, Fetch())

    async def _agent(self, host: str) -> None:
        async with asyncio.TaskGroup() as turns:
            while True:
                envelope = await self._lines[host].sent.get()
                if isinstance(envelope.body, TurnOrder):
                    self.orders.append((time.monotonic(), host, envelope.body))
                    turns.create_task(self._turn(host, envelope.body))
                else:
                    self._deliver(host, envelope.id, self._answer(host, envelope.body))

    async def _turn(self, host: str, order: TurnOrder) -> None:
        async for reporter, event in self.serve(self, host, order):
            self.report(reporter, event)

    def _answer(self, host: str, command: Message) -> Message:
        match command:
            case BeginRepetition():
                self.began.append(host)
                self.layerwise.add(command.layerwise)
            case EndRepetition():
                self.ended.append(host)
                if host in self.failing:
                    return Failed(host, "EndRepetition: out of memory")
                samples = HostSamples([], [], [], [], [], [], [], [], [], [], [])
                return RepetitionReport(0, 0, 0.0, 0.0, samples, ())
        return Done()


def run(work: Awaitable[None]) -> None:
    """``work``, which must not hang."""

    async def in_time() -> None:
        async with asyncio.timeout(10):
            await work

    asyncio.run(in_time())
