"""``dualpath bench storage``: reads of a directory by the posix back-end's engines, beside fio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from harness.bench import peers
from harness.bench.contest import Contest, Result, contest
from hosts.bench.reads import Reads, filled_file, read_file
from hosts.config import StorageConfig


class StorageCase(msgspec.Struct, frozen=True):
    """What was read how, and by which engines and tools: those that were asked for, and by ``engines`` what
    each of ours read with, which without io_uring is threads."""

    engines: dict[str, str]
    cache: str
    reads: Reads
    contest: Contest


def bench_storage(
    configs: Sequence[StorageConfig], reads: Reads, file_bytes: int, rounds: int, peer: bool
) -> StorageCase:
    """Write the file, read it in turn, remove it. ``configs`` differ in their engines only."""
    root, cache = Path(configs[0].root), configs[0].cache
    with filled_file(root, file_bytes) as path:
        engines: dict[str, str] = {}

        def ours(config: StorageConfig) -> Result:
            engines[config.engine], observed = asyncio.run(read_file(config, path, file_bytes, reads))
            return Result.of(observed)

        tools: dict[str, Callable[[], Result]] = {config.engine: partial(ours, config) for config in configs}
        if peer and peers.installed("fio"):
            tools["fio"] = lambda: peers.fio(
                path, reads.block_bytes, reads.depth, reads.random, cache == "direct", reads.seconds
            )
        return StorageCase(engines, cache, reads, contest(tools, rounds))
