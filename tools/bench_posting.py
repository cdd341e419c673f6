"""Time what it costs to post the Layer Blocks of a turn: 61 layers of 512 descriptors each.

    .venv/bin/python tools/bench_posting.py [--rounds 100] [--json]
    .venv/bin/python tools/bench_posting.py --verbs 10.99.0.1 10.99.0.2
    .tox/nixl/bin/python tools/bench_posting.py --nixl

An operation a layer, as a turn makes them: planned, loaded into a list of work requests, posted, completed.
The device is a function that does nothing, so the figure is the representation's own; a turn's blocks take
as long as they do at the profile's compute NIC on paper, and the share of that should stay below 5 %. With
`--verbs`, two RDMA addresses of this machine, the lists also go to the actual device, in small blocks, and
what its library takes for a descriptor is measured apart. With `--nixl`, so do NIXL's rows, from one agent of
this process to another. Single-threaded; medians over rounds, of this process on this machine, with what else
runs on it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from harness.experiment import load_profile
from hosts.config import ClassMark, TransportConfig, VerbsConfig
from hosts.nixl_agent import rows
from hosts.transport import Strided, open_transport
from hosts.transport.nixl.descriptors import chunks
from hosts.transport.nixl.ucx import open_agent
from hosts.transport.plan import Side, plan
from hosts.transport.verbs.send_queue import Operation, SendQueue
from hosts.transport.verbs.structs import PostSend
from hosts.transport.verbs.work_requests import Opcode
from workloads.models import find_model, kv_bytes_per_token

MODEL, PROFILE, BLOCK_TOKENS, LAYERS, BLOCKS = "deepseek-v3.2-660b", "hopper-400g", 64, 61, 512
LIMIT = 0.05
DEVICE_BLOCK_BYTES = 64
LOCAL, REMOTE = 1 << 40, 1 << 41

Shape = Callable[[int, int], Strided]
SHAPES: dict[str, tuple[Shape, Shape]] = {
    "blocks into a layer's slot": (lambda layer, nbytes: _slot(nbytes), lambda *at: _layer(*at)),
    "blocks into blocks": (lambda *at: _layer(*at), lambda *at: _layer(*at)),
    "a layer's slot into blocks, gathered": (lambda *at: _layer(*at), lambda layer, nbytes: _slot(nbytes)),
}
"""Local and remote side of one layer's operation, of Layer Blocks of so many bytes."""


def _slot(nbytes: int) -> Strided:
    return Strided(0, BLOCKS * nbytes)


def _layer(layer: int, nbytes: int) -> Strided:
    return Strided(layer * nbytes, nbytes, BLOCKS, LAYERS * nbytes)


def no_device() -> Callable[[int], int]:
    """Called as a device's library is, by pointer and with a list; ffs(3) of 0 is 0: success."""
    do_nothing, failed = ctypes.cast(ctypes.CDLL(None).ffs, PostSend), ctypes.byref(ctypes.c_void_p())
    return lambda first: do_nothing(None, first, failed)


async def representation_ns(shape: tuple[Shape, Shape], nbytes: int, rounds: int) -> float:
    """Nanoseconds a descriptor to plan, load, post and complete, with no device."""
    config = VerbsConfig()
    queue = SendQueue("nobody", config.send_depth, config.max_entries, no_device(), print)
    turns_s = []
    for _ in range(rounds):
        began_at = time.thread_time()
        for layer in range(LAYERS):
            local, remote = (side(layer, nbytes) for side in shape)
            planned = plan(Side(LOCAL, local), Side(REMOTE, remote), config.max_entries)
            queue.submit(Operation("read", Opcode.READ, planned, lkey=1, rkey=2, region=2, offset=0))
        while queue.busy:
            queue.completed()
        turns_s.append(time.thread_time() - began_at)
    return statistics.median(turns_s) / (LAYERS * BLOCKS) * 1e9


async def device_ns(addresses: list[str], shape: tuple[Shape, Shape], rounds: int) -> float:
    """Nanoseconds a descriptor in the device's library, for reads of small blocks from one of this machine's
    ports by another."""
    initiator, target = [await open_transport(TransportConfig("verbs", address)) for address in addresses]
    try:
        nbytes = LAYERS * BLOCKS * DEVICE_BLOCK_BYTES
        local, remote = (end.register(np.zeros(nbytes, np.uint8)) for end in (initiator, target))
        connection = await initiator.connect(target.address)
        spent_s = _timed_posting(connection)
        turns_s = []
        for _ in range(rounds):
            spent_s.clear()
            for layer in range(LAYERS):
                here, there = (side(layer, DEVICE_BLOCK_BYTES) for side in shape)
                await connection.read(local, here, remote.remote, there)
            turns_s.append(sum(spent_s))
        return statistics.median(turns_s) / (LAYERS * BLOCKS) * 1e9
    finally:
        await initiator.close()
        await target.close()


def nixl_ns(shape: tuple[Shape, Shape], rounds: int) -> tuple[float, float]:
    """Nanoseconds a descriptor to make NIXL's rows, and in NIXL and UCX to post them; small blocks."""
    nbytes = LAYERS * BLOCKS * DEVICE_BLOCK_BYTES
    initiator, target = [open_agent("127.0.0.1", ClassMark(0, 0)) for _ in range(2)]
    try:
        here, there = np.zeros((2, nbytes), np.uint8)
        initiator.register("DRAM", rows((here.ctypes.data, nbytes, 1)))
        offered = target.register("DRAM", rows((there.ctypes.data, nbytes, 2)))
        peer = initiator.load(target.description())
        initiator.load(target.description(offered))
        made_s, posted_s = [], []
        for _ in range(rounds):
            sides = [[side(layer, DEVICE_BLOCK_BYTES) for side in shape] for layer in range(LAYERS)]
            began_at = time.thread_time()
            made = [
                chunks(Side(here.ctypes.data, local), 1, Side(there.ctypes.data, remote), 2)
                for local, remote in sides
            ]
            made_s.append(time.thread_time() - began_at)
            posting_s = 0.0
            for parts in made:
                began_at = time.thread_time()
                transfers = [initiator.post("WRITE", part.local, part.remote, peer) for part in parts]
                posting_s += time.thread_time() - began_at
                while not all(transfer.done() for transfer in transfers):
                    target.messages()
                for transfer in transfers:
                    transfer.release()
            posted_s.append(posting_s)
    finally:
        initiator.close()
        target.close()
    descriptors = LAYERS * BLOCKS
    return statistics.median(made_s) / descriptors * 1e9, statistics.median(posted_s) / descriptors * 1e9


def _timed_posting(connection: object) -> list[float]:
    """From now on, the seconds of every call that posts a list on the connection."""
    (queue,) = connection._link.endpoint.queues  # type: ignore[attr-defined]
    post, spent_s = queue._post, []

    def timed(first: int) -> int:
        began_at = time.thread_time()
        error: int = post(first)
        spent_s.append(time.thread_time() - began_at)
        return error

    queue._post = timed
    return spent_s


async def measure(rounds: int, addresses: list[str] | None, nixl: bool) -> dict[str, object]:
    """Every shape's figures beside what a descriptor's bytes take on the profile's wire."""
    nbytes = round(kv_bytes_per_token(find_model(MODEL)) * BLOCK_TOKENS / LAYERS)
    nic_gbit_per_s = load_profile(PROFILE).compute_nic.value
    wire_ns = nbytes * 8 / nic_gbit_per_s
    shapes = {}
    for name, shape in SHAPES.items():
        ours_ns = await representation_ns(shape, nbytes, rounds)
        figures = {"representation_ns": ours_ns, "share_of_transfer": ours_ns / wire_ns}
        if addresses is not None:
            figures["device_ns"] = await device_ns(addresses, shape, max(1, rounds // 20))
        if nixl:
            figures["nixl_rows_ns"], figures["nixl_post_ns"] = nixl_ns(shape, max(1, rounds // 20))
        shapes[name] = figures
    return {
        "descriptors": LAYERS * BLOCKS,
        "layer_block_bytes": nbytes,
        "compute_nic_gbit_per_s": nic_gbit_per_s,
        "transfer_ns_a_descriptor": wire_ns,
        "limit_of_share": LIMIT,
        "shapes": shapes,
    }


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--verbs", nargs=2, metavar="ADDRESS", help="of two RDMA ports of this machine")
    parser.add_argument("--nixl", action="store_true", help="NIXL agents too; they have to be installed")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.rounds, arguments.verbs, arguments.nixl))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{found['descriptors']} descriptors of {found['layer_block_bytes']} bytes, "
        f"{found['transfer_ns_a_descriptor']:.0f} ns each at {found['compute_nic_gbit_per_s']:g} Gbit/s"
    )
    for name, figures in found["shapes"].items():  # type: ignore[attr-defined]
        device = f", the device's library {figures['device_ns']:.0f} ns" if "device_ns" in figures else ""
        if "nixl_post_ns" in figures:
            device += (
                f"; NIXL's rows {figures['nixl_rows_ns']:.0f} ns, posted in {figures['nixl_post_ns']:.0f} ns"
            )
        share = f"{figures['share_of_transfer']:.1%} of the transfer (limit {LIMIT:.0%})"
        print(f"{name:38} {figures['representation_ns']:6.1f} ns a descriptor, {share}{device}")


if __name__ == "__main__":
    main()
