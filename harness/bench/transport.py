"""``dualpath bench transport``: transports between two processes of this machine, beside their peer tools."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
import psutil

from harness.bench import peers
from harness.bench.contest import Contest, Result, contest
from hosts.bench import raw_nixl
from hosts.bench.transfers import Offer, Target, Transfers, initiate
from hosts.config import TransportConfig

_STOP_S = 10.0
_Offer = TypeVar("_Offer")


class Ends(NamedTuple):
    """One transport's two ends."""

    initiator: TransportConfig
    target: TransportConfig


class TransportCase(msgspec.Struct, frozen=True):
    """What was moved how, and by which transports and tools."""

    kinds: tuple[str, ...]
    transfers: Transfers
    contest: Contest


def bench_transport(ends: Sequence[Ends], transfers: Transfers, rounds: int, peer: bool) -> TransportCase:
    """Measure every transport ``rounds`` times in turn, and in turn with them the peer tools, where they are
    wanted, installed and do the same thing."""
    tools: dict[str, Callable[[], Result]] = {}
    for pair in ends:
        tools[pair.initiator.kind] = partial(_measured, pair, transfers)
    for pair in ends if peer and transfers.memory == "host" else ():
        if other := _peer_tool(pair, transfers):
            name, run = other
            tools[name] = run
    return TransportCase(tuple(pair.initiator.kind for pair in ends), transfers, contest(tools, rounds))


def _measured(ends: Ends, transfers: Transfers) -> Result:
    target = Target(ends.target, transfers.target_bytes, transfers.memory)
    arguments = ["hosts.bench.transfers", msgspec.json.encode(target).decode()]
    with _target(arguments, Offer) as (offer, cpu_s):
        return Result.of(asyncio.run(initiate(ends.initiator, offer, transfers, cpu_s)))


def _raw_nixl(ends: Ends, transfers: Transfers) -> Result:
    arguments = [
        "hosts.bench.raw_nixl",
        ends.target.bind_address,
        str(transfers.block_bytes * transfers.depth),
    ]
    with _target(arguments, raw_nixl.RawOffer) as (offer, cpu_s):
        return Result.of(raw_nixl.initiate(ends.initiator.bind_address, offer, transfers, cpu_s))


@contextmanager
def _target(module: Sequence[str], kind: type[_Offer]) -> Iterator[tuple[_Offer, Callable[[], float]]]:
    """The other process, a module and its arguments: its offer, and the CPU seconds it has used so far."""
    command = [sys.executable, "-m", *module]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        try:
            line = process.stdout.readline()
            if not line:
                raise peers.PeerToolError(f"the target process ended: exit status {process.wait(_STOP_S)}")
            offer = msgspec.json.decode(line, type=kind)
            running = psutil.Process(process.pid)
            yield offer, lambda: sum(running.cpu_times()[:2])
        finally:
            process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _peer_tool(ends: Ends, transfers: Transfers) -> tuple[str, Callable[[], Result]] | None:
    """The tool that measures the same path; one stream or queue pair, like ours."""
    ours, target = ends
    if ours.kind == "nixl" and transfers.batch == 1:
        return f"NIXL {transfers.direction.upper()}", partial(_raw_nixl, ends, transfers)
    if ours.kind == "tcp" and peers.installed("iperf3"):
        return "iperf3", lambda: peers.iperf3(target.bind_address, transfers.block_bytes, transfers.seconds)
    tool = f"ib_{transfers.direction}_bw"
    if ours.kind == "verbs" and peers.installed(tool):
        return tool, partial(_perftest, tool, ends, transfers)
    return None


def _perftest(tool: str, ends: Ends, transfers: Transfers) -> Result:
    """On the ports that ours has found before: it says which are missing."""
    from hosts.transport.verbs.port import find_port

    port, peer = (find_port(end.bind_address, end.verbs) for end in ends)
    return peers.perftest(
        tool,
        port.device,
        peer.device,
        port.gid_index,
        transfers.block_bytes,
        transfers.depth,
        transfers.seconds,
    )
