"""``dualpath bench storage --memory gpu``: does GPUDirect Storage beat reading to the host and copying?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from harness.bench.contest import Contest, Result, contest
from hosts.bench.gpu_reads import CuFileUse, by_cufile, measure, opened_cufile, through_host
from hosts.bench.reads import Reads, filled_file
from hosts.config import StorageConfig
from hosts.cuda.driver import Gpu

CUFILE = "cufile"


class GpuStorageCase(msgspec.Struct, frozen=True):
    """What was read how, to which GPU; ``engines`` is what each of ours read with, as in `StorageCase`."""

    gpu: str
    cuda_driver: str
    cufile: CuFileUse
    engines: dict[str, str]
    reads: Reads
    contest: Contest


def bench_gpu_storage(
    ordinal: int, configs: Sequence[StorageConfig], reads: Reads, file_bytes: int, rounds: int
) -> GpuStorageCase:
    """Write the file, read it into the GPU's memory in turn by cuFile and through host memory by each of
    ``configs``, remove it."""
    with (
        closing(Gpu(ordinal)) as gpu,
        gpu.current(),
        filled_file(Path(configs[0].root), file_bytes) as path,
        opened_cufile(gpu, path) as (cufile, use),
    ):
        engines: dict[str, str] = {}

        def directly() -> Result:
            _, observed = asyncio.run(measure(by_cufile(gpu, cufile, path, reads), path, file_bytes, reads))
            return Result.of(observed)

        def by_host(config: StorageConfig) -> Result:
            way = through_host(gpu, config, path, reads)
            engines[config.engine], observed = asyncio.run(measure(way, path, file_bytes, reads))
            return Result.of(observed)

        tools: dict[str, Callable[[], Result]] = {CUFILE: directly}
        tools |= {f"host, {config.engine}": partial(by_host, config) for config in configs}
        found = contest(tools, rounds)
        return GpuStorageCase(gpu.name, gpu.driver.version, use, engines, reads, found)
