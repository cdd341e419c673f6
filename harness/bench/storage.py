"""``dualpath bench storage``: reads of a directory by the posix back-end, beside fio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from harness.bench import peers
from harness.bench.contest import Contest, Result, contest
from hosts.bench.reads import Reads, filled_file, read_file
from hosts.config import StorageConfig


class StorageCase(msgspec.Struct, frozen=True):
    """What was read how, and by whom; ``engine`` is ours."""

    engine: str
    cache: str
    reads: Reads
    contest: Contest


def bench_storage(
    config: StorageConfig, reads: Reads, file_bytes: int, rounds: int, peer: bool
) -> StorageCase:
    """Write the file, read it in turn, remove it."""
    with filled_file(Path(config.root), file_bytes) as path:
        engines: list[str] = []

        def ours() -> Result:
            engine, observed = asyncio.run(read_file(config, path, file_bytes, reads))
            engines.append(engine)
            return Result.of(observed)

        tools: dict[str, Callable[[], Result]] = {"posix": ours}
        if peer and peers.installed("fio"):
            direct = config.cache == "direct"
            tools["fio"] = lambda: peers.fio(
                path, reads.block_bytes, reads.depth, reads.random, direct, reads.seconds
            )
        found = contest(tools, rounds)
        return StorageCase(engines[0], config.cache, reads, found)
