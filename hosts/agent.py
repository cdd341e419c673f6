"""The agent: one process a host. Attaches to the control node, serves commands, ends with the stream.

    python -m hosts.agent --host NAME < CREDENTIALS

The agent dials the control node, so no port of its own has to be known beforehand.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any

import numpy as np

from hosts.ceilings import storage_ceiling, transfer_ceiling
from hosts.claim import ClaimedError
from hosts.content import fill_blocks
from hosts.control_stream import ControlLostError, attach
from hosts.counters import open_counters
from hosts.credentials import Credentials, decode_credentials
from hosts.decode import DecodeService, PrefillError
from hosts.facts import host_facts
from hosts.gpu_counters import open_gpu_counters
from hosts.host import Host, open_host, opened_compute
from hosts.prefill import PrefillService
from hosts.protocol import (
    PROTOCOL_VERSION,
    BeginRepetition,
    DecodePartRead,
    Done,
    EndRepetition,
    Envelope,
    Failed,
    Fetch,
    Hello,
    HostConfig,
    MeasureStorage,
    MeasureTransfer,
    Message,
    Peers,
    Ping,
    PrefillFailed,
    PrefillRequest,
    Prime,
    ReadDone,
    Ready,
    Remove,
    RepetitionReport,
    Shutdown,
    StoredObject,
    TurnOrder,
    decode_in_band,
    encode,
)
from hosts.telemetry import Telemetry
from hosts.transport import TransferError
from workloads.layout import from_ranges

_log = logging.getLogger("dualpath.agent")


class Agent:
    """Serves commands, in any order, each exactly once; ``post`` takes its answers and reports."""

    def __init__(self, host_name: str, post: Callable[[Envelope], None]) -> None:
        self._name = host_name
        self._post = post
        self._tasks: set[asyncio.Task[None]] = set()
        self._resources = AsyncExitStack()
        self._opened: Host | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._ended = False

    async def serve(self, envelopes: AsyncIterator[Envelope]) -> None:
        """Until Shutdown, or the end of what comes; then everything is freed."""
        async with self._resources:
            try:
                async for envelope in envelopes:
                    match envelope.body:
                        case Shutdown():
                            self._post(Envelope(envelope.id, Done()))
                            break
                        case Ping() if envelope.id == 0:
                            pass
                        case TurnOrder() as order:
                            self._start(self._serve_turn(order))
                        case _:
                            self._start(self._answer(envelope))
            finally:
                self._ended = True
                await _cancel([*self._tasks])

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, envelope: Envelope) -> None:
        try:
            body = await self._perform(envelope.body)
        except ClaimedError as error:
            body = Failed(self._name, str(error))
        except Exception as error:  # the control node decides what a failed command means
            _log.exception("%s failed", type(envelope.body).__name__)
            body = Failed(self._name, f"{type(envelope.body).__name__}: {_reason(error)}")
        self._post(Envelope(envelope.id, body))

    async def _perform(self, command: Message) -> Message:
        match command:
            case HostConfig():
                return await self._configure(command)
            case Peers():
                self._host.peers.update(command.addresses)
            case Prime():
                for stored in command.objects:
                    await self._store(stored)
            case Remove():
                await self._host.storage.delete(command.prefix)
            case MeasureStorage():
                return await storage_ceiling(self._host, command)
            case MeasureTransfer():
                return await transfer_ceiling(self._host, command)
            case BeginRepetition():
                self._begin_repetition(command)
            case EndRepetition():
                return await self._end_repetition()
            case Ping():
                pass
            case _:
                raise ValueError(f"an agent does not serve {type(command).__name__}")
        return Done()

    async def _configure(self, config: HostConfig) -> Ready:
        self._opened = host = await self._resources.enter_async_context(open_host(config))
        nics = open_counters(config.nics, {rail.nic: rail.transport.verbs for rail in config.rails})
        gpus = self._resources.enter_context(open_gpu_counters())
        self._telemetry = Telemetry(nics, host.storage, config.telemetry_interval_s, gpus)
        self._resources.push_async_callback(self._telemetry.close)
        compute = await opened_compute(host)
        self._resources.push_async_callback(compute.close)
        self._prefill = PrefillService(
            host, compute, on_read_done=lambda turn_id: self._report(ReadDone(turn_id))
        )
        self._resources.push_async_callback(self._prefill.close)
        self._decode = DecodeService(host, compute, self._report)
        self._resources.push_async_callback(self._decode.close)
        for rail in host.rails:
            rail.transport.on_notification(self._in_band)
        return Ready(
            tuple(rail.transport.address for rail in host.rails),
            tuple(rail.region.remote for rail in host.rails),
        )

    async def _report(self, event: Message) -> None:
        self._post(Envelope(0, event))

    async def _serve_turn(self, order: TurnOrder) -> None:
        try:
            await self._decode.serve(order)
        except Exception as error:
            _log.exception("turn %d failed", order.turn_id)
            host = order.prefill_host if isinstance(_first(error), PrefillError) else self._name
            await self._report(Failed(host, _reason(error), order.turn_id))

    def _in_band(self, payload: bytes) -> None:
        if self._ended:  # what serves it is being given back
            return
        match message := decode_in_band(payload):
            case PrefillRequest():
                self._start(self._serve_prefill(message))
            case DecodePartRead():
                self._prefill.on_decode_part_read(message)
            case _:
                self._decode.on_prefill(message)

    async def _serve_prefill(self, request: PrefillRequest) -> None:
        try:
            await self._prefill.serve(request)
        except Exception as error:
            _log.exception("prefill of turn %d failed", request.order.turn_id)
            await self._tell_prefill_failed(request, _reason(error))

    async def _tell_prefill_failed(self, request: PrefillRequest, reason: str) -> None:
        """Tell the decode host, which owns the turn, or the control node if that one is out of reach."""
        turn_id = request.order.turn_id
        failed = PrefillFailed(turn_id, reason)
        try:
            decode_host = await self._host.peer(request.decode_host, request.order.prefill_engine)
            await decode_host.notify(encode(failed))
        except TransferError as error:
            await self._report(Failed(self._name, f"{reason}; {_reason(error)}", turn_id))

    async def _store(self, stored: StoredObject) -> None:
        ids = from_ranges(stored.blocks)
        data = np.empty((len(ids), self._host.config.geometry.full_block_bytes), np.uint8)
        fill_blocks(data, self._host.config.content_seed, ids)
        await self._host.storage.write(stored.key, memoryview(data.reshape(-1).data))

    def _begin_repetition(self, command: BeginRepetition) -> None:
        host = self._host
        host.began_at_ns, host.layerwise = time.monotonic_ns(), command.layerwise
        self._cpu_before_s = time.process_time()
        self._read_before, self._written_before = host.storage.bytes_read, host.storage.bytes_written
        self._prefill.passes.clear()
        self._telemetry.begin(host.began_at_ns)
        if host.config.role != "storage":
            self._fetching = self._start(self._fetch_regularly())

    async def _fetch_regularly(self) -> None:
        """The group's leader asks for work (paper section 6)."""
        while True:
            await self._report(Fetch())
            await asyncio.sleep(self._host.config.fetch_interval_s)

    async def _end_repetition(self) -> RepetitionReport:
        if self._fetching is not None:
            await _cancel([self._fetching])
        samples = await self._telemetry.end()
        storage = self._host.storage
        return RepetitionReport(
            storage_read_bytes=storage.bytes_read - self._read_before,
            storage_written_bytes=storage.bytes_written - self._written_before,
            agent_cpu_s=time.process_time() - self._cpu_before_s,
            telemetry_cpu_s=samples.cost_ns / 1e9,
            samples=samples,
            forwards=tuple(self._prefill.passes),
        )

    @property
    def _host(self) -> Host:
        if self._opened is None:
            raise RuntimeError("not configured yet: HostConfig comes first")
        return self._opened


def _reason(error: BaseException) -> str:
    """One line naming what went wrong, of the first error if several happened together."""
    match first := _first(error):
        case TimeoutError() if not str(first):
            return "deadline passed"
        case PrefillError():
            return str(first)  # its kind and what it says, of where it happened
        case _:
            return f"{type(first).__name__}: {first}"


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def run(credentials: Credentials) -> None:
    """One agent, from attaching to its end; raises `ControlLostError`."""
    hello = Hello(credentials.host, PROTOCOL_VERSION, host_facts())
    async with attach(credentials, hello) as stream, aclosing(stream.envelopes()) as envelopes:
        _log.info("host %s attached to the control node at %s", credentials.host, credentials.control)
        await Agent(credentials.host, stream.post).serve(envelopes)
    _log.info("control stream ended")


def main() -> int:
    """Entry point of the agent process."""
    parser = argparse.ArgumentParser(prog="dualpath-agent", description=__doc__)
    parser.add_argument("--host", required=True, help="this host's name, for who looks at the processes")
    parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Ctrl-C reaches the whole process group: only the control node decides when an agent stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(run(decode_credentials(sys.stdin.buffer.read())))
    except ControlLostError as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
