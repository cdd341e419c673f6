"""Measure the Slurm launcher on this machine: a real slurmctld, and a slurmd in every host's namespace.

    .venv/bin/python tools/bench_slurm.py [--hosts 16]

As root, with Slurm and munge installed. Prints what docs/slurm.md quotes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

from harness.cluster import ClusterSpec
from harness.inventory import Inventory, load_inventory
from harness.launchers.slurm import open_slurm

sys.path.append(str(Path(__file__).parents[1] / "tests" / "integration"))
from racks.slurm_lab import slurm_lab

FILE_BYTES = 100_000_000
COMMANDS = 20


def main() -> None:
    """Raise the lab, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=16)
    hosts = parser.parse_args().hosts
    spec = ClusterSpec(1, hosts - 2, storage_nic_bytes_per_s=12.5e6, compute_nic_bytes_per_s=25e6)
    with tempfile.TemporaryDirectory(prefix="bench-") as place, slurm_lab(Path(place), spec) as lab:
        lab.inside(lambda: asyncio.run(measure(load_inventory(lab.inventory), Path(place))))


async def measure(inventory: Inventory, place: Path) -> None:
    """All of it, in one allocation."""
    began_at = time.monotonic()
    launcher = await open_slurm(inventory)
    try:
        print(f"allocate {len(launcher.hosts)} nodes: {time.monotonic() - began_at:.2f} s")
        first = launcher.hosts[0]
        alone = [await seconds(launcher.run(first, ["true"])) for _ in range(COMMANDS)]
        print(f"a command: median {statistics.median(alone) * 1e3:.0f} ms, longest {max(alone) * 1e3:.0f} ms")
        on_all = [launcher.run(host, ["true"]) for host in launcher.hosts]
        print(f"one on each host at once: {await seconds(asyncio.gather(*on_all)):.2f} s")
        source = place / "source"
        source.write_bytes(bytes(FILE_BYTES))
        took_s = await seconds(launcher.put(first, source, str(place / "copy")))
        print(f"a file of {FILE_BYTES / 1e6:.0f} MB: {FILE_BYTES / 1e6 / took_s:.0f} MB/s")
        for host in launcher.hosts:
            await launcher.start(host, ["sleep", "300"], stdin=b"", log=place / "logs" / host)
    finally:
        took_s = await seconds(launcher.close())
    print(f"end what was started on all, give the nodes back: {took_s:.2f} s")


async def seconds(work: Awaitable[object]) -> float:
    """How long it takes."""
    began_at = time.monotonic()
    await work
    return time.monotonic() - began_at


if __name__ == "__main__":
    main()
